-- The newest link, the chain values of the link before it, and the frontier of the same snapshot; nulls
-- while the chain is empty.
select frontier.applied_id, link.id, link.node_id, link.hash, link.digest, link.written_at,
    link.payload, before.id, before.hash, before.digest, before.written_at
  from pghc.frontier
  left join pghc.chain link on link.id = frontier.applied_id
  left join pghc.chain before on before.id = frontier.applied_id - 1
