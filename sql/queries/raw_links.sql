-- Links above $1, up to $2, as they stand. A reader asks piece by piece: one long statement would
-- hold a snapshot, and under it every version of the frontier's row would pile up.
select id, node_id, hash, digest, written_at, payload
  from pghc.chain
  where id > $1 and id <= $2
  order by id
