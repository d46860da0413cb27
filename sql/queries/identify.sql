-- Which database this is, so that another in its place is noticed: the life of the server, and the
-- table of ours, null when it is not there.
select pg_postmaster_start_time()::text, to_regclass('pghc.frontier')::oid::text
