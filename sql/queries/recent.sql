-- The newest $1 links, newest first, each with the hash of the link before it, and the frontier of the same
-- snapshot on each row; one row of nulls while the chain is empty.
-- A limit keeps each lookup one by index, whatever the planner believes of tables without statistics.
select frontier.applied_id, link.id, link.hash, link.node_id, before.hash
  from pghc.frontier
  left join lateral (
    select id, hash, node_id from pghc.chain
      where id <= frontier.applied_id order by id desc limit $1
  ) link on true
  left join lateral (select hash from pghc.chain where id = link.id - 1 limit 1) before on true
  order by link.id desc
