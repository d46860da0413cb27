-- Lets this session apply, if it may: see pghc.acquire. $1: the node. $2: the epoch whose lease was
-- seen to run out, or null. The commit reaches the disk, and with it all that was applied before.
select granted, epoch, applier, applied_id, hash, digest, written_at,
    set_config('synchronous_commit', 'local', true)
  from pghc.acquire($1, $2)
