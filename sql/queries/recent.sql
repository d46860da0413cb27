-- The newest $1 links, newest first, and the frontier of the same snapshot on each row; one row of
-- nulls while the chain is empty.
select frontier.applied_id, link.id, link.hash, link.node_id
  from pghc.frontier
  left join lateral (
    select id, hash, node_id from pghc.chain
      where id <= frontier.applied_id order by id desc limit $1
  ) link on true
  order by link.id desc
