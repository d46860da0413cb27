-- The cluster and zone whose database this is; no row when nobody has claimed it yet.
select cluster_id::text, zone from pghc.cluster
