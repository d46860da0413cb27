-- Keeps what node $1 has found: first bad id $2, what $3, expected $4, found $5, and the row as it
-- stands. Fences the zone with it if $6; otherwise only a zone that is fenced takes it. On disk when
-- it returns, whatever the session's setting is.
insert into pghc.evidence (node, id, what, expected, found, link)
  select $1, $2::bigint, $3, $4, $5, (select chain::text from pghc.chain where id = $2)
  where $6::boolean or exists (select from pghc.evidence)
  returning set_config('synchronous_commit', 'local', true)
