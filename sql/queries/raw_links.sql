-- Links above $1, up to $2, at most $3, as they stand. A reader asks piece by piece: one long
-- statement would hold a snapshot, and under it every version of the frontier's row would pile up.
-- With ties, so that none of several rows under one id is lost between two pieces. COPY takes no
-- parameters: numbers are put in the text for them.
copy (
  select id, node_id, hash, digest, written_at, payload
    from pghc.chain
    where id > $1 and id <= $2
    order by id
    fetch first $3 rows with ties
) to stdout (format binary)
