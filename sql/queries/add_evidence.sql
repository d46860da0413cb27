-- Fences the zone with what node $1 has found: first bad id $2, what $3, expected $4, found $5, and
-- the row as it stands. On disk when it returns, whatever the session's setting is.
insert into pghc.evidence (node, id, what, expected, found, link)
  values ($1, $2, $3, $4, $5, (select chain::text from pghc.chain where id = $2))
  returning set_config('synchronous_commit', 'local', true)
