-- Link $1 and the frontier of the same snapshot; nulls when the link is above it.
select frontier.applied_id, link.id, link.node_id, link.hash, link.digest, link.written_at,
    link.payload
  from pghc.frontier
  left join pghc.chain link on link.id = $1 and link.id <= frontier.applied_id
