-- How a zone's database stands, for who is about to replace or adopt it: whose it is, how far it is,
-- and for how many seconds nobody has renewed the right to apply.
select cluster.cluster_id::text, cluster.zone, frontier.applied_id, frontier.applier,
    extract(epoch from clock_timestamp() - frontier.renewed_at)::float8, pg_is_in_recovery()
  from (select) one left join pghc.cluster on true left join pghc.frontier on true
