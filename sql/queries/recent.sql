-- The newest $1 links, newest first.
select link.id, link.hash, link.node_id
  from pghc.frontier join pghc.chain link on link.id <= frontier.applied_id
  order by link.id desc limit $1
