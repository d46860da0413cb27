-- What a verifier must know before it reads: whose chain this is, where it begins and ends, and
-- what the frontier claims, all of one snapshot.
select cluster.cluster_id::text, cluster.zone, frontier.applied_id, frontier.hash::text,
    frontier.digest, frontier.written_at,
    (select min(id) from pghc.chain), (select max(id) from pghc.chain)
  from (select) one left join pghc.cluster on true left join pghc.frontier on true
