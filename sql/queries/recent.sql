-- The newest $1 links, newest first, each with the hash of the link before it, and the frontier of the same
-- snapshot on each row; one row of nulls while the chain is empty.
select frontier.applied_id, link.id, link.hash, link.node_id, before.hash
  from pghc.frontier
  left join lateral (
    select id, hash, node_id from pghc.chain
      where id <= frontier.applied_id order by id desc limit $1
  ) link on true
  left join pghc.chain before on before.id = link.id - 1
  order by link.id desc
