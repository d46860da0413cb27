-- State of a zone's database before a reseed or adoption: cluster, zone, frontier, applier, seconds
-- since the last renewal of the lease, and whether the server is a replica.
select cluster.cluster_id::text, cluster.zone, frontier.applied_id, frontier.applier,
    extract(epoch from clock_timestamp() - frontier.renewed_at)::float8, pg_is_in_recovery()
  from (select) one left join pghc.cluster on true left join pghc.frontier on true
