-- The newest link and the frontier of the same snapshot; nulls while the chain is empty.
select frontier.applied_id, link.id, link.node_id, link.hash, link.digest, link.written_at,
    link.payload
  from pghc.frontier
  left join pghc.chain link on link.id = frontier.applied_id
