-- Keeps what node $1 has found: first bad id $2, what $3, expected $4, found $5, and the row as it
-- stands. Fences the zone with it if $6; otherwise only a zone that is fenced takes it. On disk when
-- it returns, whatever the session's setting is. No row answered: it was not kept.
-- A finding fences only the chain that it was made in: one that ends below the bad id, or has the
-- expected link there, has taken that chain's place meanwhile (`pghc zone reseed`).
select set_config('synchronous_commit', 'local', true)
  from pghc.add_evidence($1, $2, $3, $4, $5, $6
    and coalesce((select applied_id from pghc.frontier), $2) >= $2 - 1
    and not exists (select from pghc.chain where id = $2 and encode(digest, 'hex') = $4)) kept
  where kept
