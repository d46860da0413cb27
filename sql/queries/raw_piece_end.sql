-- The id with which the piece above $1 ends: that of the $3rd link, at most $2; null without links.
select max(id) from (
  select id from pghc.chain where id > $1 and id <= $2 order by id limit $3
) piece
