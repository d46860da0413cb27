-- Link $1, the chain values of the link before it, and the frontier of the same snapshot; nulls when the
-- link is above the frontier.
-- A limit keeps each lookup one by index, whatever the planner believes of tables without statistics.
select frontier.applied_id, link.id, link.node_id, link.hash, link.digest, link.written_at,
    link.payload, before.id, before.hash, before.digest, before.written_at
  from pghc.frontier
  left join pghc.chain link on link.id = $1 and link.id <= frontier.applied_id
  left join lateral (
    select id, hash, digest, written_at from pghc.chain where id = $1 - 1 limit 1
  ) before on true
