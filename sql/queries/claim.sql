-- Claims an unclaimed database for a cluster and zone, forever.
insert into pghc.cluster (cluster_id, zone) values ($1::text::uuid, $2)
