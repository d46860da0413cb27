-- Who applies, and how far. A standby compares two answers: when neither column has changed for
-- longer than a lease by its own clock, the applier of that epoch is gone.
select epoch, applied_id, applier, (extract(epoch from renewed_at) * 1000000)::bigint
  from pghc.frontier
