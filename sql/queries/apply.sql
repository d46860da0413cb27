-- Applies one batch: see pghc.apply. $1: the epoch. $2 and $3: id and digest of the link before.
-- $4 to $8: columns of the links. $9: whether to notify. Null: another applier was here.
select pghc.apply($1, $2, $3, $4, $5, $6, $7, $8, $9)
