-- What the database says of itself, all of one snapshot: whose it is, which server this is (a replica
-- has the identifier of its primary), where the frontier stands, whether the newest link is the one that
-- the frontier names, why the zone is fenced, and the newest link above the frontier, where none may
-- be, and whether the server replays what another one writes.
select cluster.cluster_id::text, cluster.zone::text,
    (select system_identifier::text from pg_catalog.pg_control_system()),
    frontier.applied_id, frontier.digest, link.digest,
    evidence.id, evidence.what, evidence.expected, evidence.found, evidence.node,
    (select max(id) from pghc.chain where id > frontier.applied_id), pg_catalog.pg_is_in_recovery()
  from (select) one
  left join pghc.cluster on true
  left join pghc.frontier on true
  left join pghc.chain link on link.id = frontier.applied_id
  left join (
    select id, what, expected, found, node from pghc.evidence order by found_at desc limit 1
  ) evidence on true
