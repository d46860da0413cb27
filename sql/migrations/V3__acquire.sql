-- Who applies: the session that was let in last.
--
-- Each epoch has its own advisory lock, held by the session of that epoch. While it is held, the
-- applier lives. A newcomer is let in when the lock of the current epoch is free, or when it names
-- the current epoch as expired, because it has watched renewed_at stand still for long enough by
-- its own clock. Either way the epoch grows by one, and with it ends every right of the session
-- before: a frontier moves only in the session that acquired the current epoch.
create function pghc.acquire(node text, expired_epoch bigint)
  returns table (granted boolean, epoch bigint, applier text, applied_id bigint, hash text,
    digest bytea, written_at timestamptz)
  language plpgsql as $$
#variable_conflict use_column
declare
  lock_class constant integer := 1885825123; -- the bytes of 'pghc'
  seen pghc.frontier;
begin
  select * into strict seen from pghc.frontier for update;
  granted := seen.epoch is not distinct from expired_epoch
    or pg_try_advisory_lock(lock_class, (seen.epoch & 2147483647)::integer);
  if granted then
    perform pg_advisory_unlock_all();
    seen.epoch := seen.epoch + 1;
    seen.applier := node;
    update pghc.frontier
      set epoch = seen.epoch, applier = seen.applier, renewed_at = clock_timestamp();
    -- Before the commit: whoever sees the new epoch must find its lock held.
    if not pg_try_advisory_lock(lock_class, (seen.epoch & 2147483647)::integer) then
      raise exception 'another session holds the lock of epoch %', seen.epoch
        using errcode = 'lock_not_available',
          hint = 'A session that failed to acquire is still open; it will end by itself.';
    end if;
    perform set_config('pghc.epoch', seen.epoch::text, false);
  end if;
  return query select granted, seen.epoch, seen.applier, seen.applied_id, seen.hash::text,
    seen.digest, seen.written_at;
end
$$;

revoke all on function pghc.acquire(text, bigint) from public;
grant execute on function pghc.acquire(text, bigint) to pghc_applier;
