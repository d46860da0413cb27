-- What the database says of itself, all of one snapshot: whose it is, which server this is (a replica
-- has the identifier of its primary), where the frontier stands, whether the newest link is the one that
-- the frontier names, why the zone is fenced, and the newest link above the frontier, where none may
-- be, and whether the server replays what another one writes.
-- A limit keeps each lookup one by index, whatever the planner believes of tables without statistics.
select cluster.cluster_id::text, cluster.zone::text,
    (select system_identifier::text from pg_catalog.pg_control_system()),
    frontier.applied_id, frontier.digest, link.digest,
    evidence.id, evidence.what, evidence.expected, evidence.found, evidence.node,
    (select id from pghc.chain where id > frontier.applied_id order by id desc limit 1), pg_catalog.pg_is_in_recovery()
  from (select) one
  left join pghc.cluster on true
  left join pghc.frontier on true
  left join lateral (
    select digest from pghc.chain where id = frontier.applied_id limit 1
  ) link on true
  left join (
    select id, what, expected, found, node from pghc.evidence order by found_at desc limit 1
  ) evidence on true
