-- The newest link, the chain values of the link before it, and the frontier of the same snapshot; nulls
-- while the chain is empty.
-- A limit keeps each lookup one by index, whatever the planner believes of tables without statistics.
select frontier.applied_id, link.id, link.node_id, link.hash, link.digest, link.written_at,
    link.payload, before.id, before.hash, before.digest, before.written_at
  from pghc.frontier
  left join lateral (select * from pghc.chain where id = frontier.applied_id limit 1) link on true
  left join lateral (
    select id, hash, digest, written_at from pghc.chain where id = frontier.applied_id - 1 limit 1
  ) before on true
