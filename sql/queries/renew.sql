-- Renews the lease of epoch $1. No row answered: another applier has been let in.
-- This commit waits for the disk whatever the session's setting is. The log is written in order, so
-- every id up to the one answered is on disk too when it returns.
select applied_id, set_config('synchronous_commit', 'local', true)
  from pghc.renew($1) applied_id
  where applied_id is not null
