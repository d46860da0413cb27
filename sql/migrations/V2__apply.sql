-- Every write to a zone's chain goes through one of these functions. They run with the rights of
-- pghc_owner and with a search path of their own; pghc_applier may call them and can write no table.
--
-- SQLSTATE PH002: the chain would be damaged. PH003: it is not the one that the caller has applied.

-- Statements by hand are refused, the owner's and a superuser's too: they would be mistakes. This
-- prevents accidents only: a superuser can turn triggers off, or say set pghc.door.
create function pghc.refuse_change() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception '% of %.% is never allowed', lower(tg_op), tg_table_schema, tg_table_name
    using errcode = 'PH002', hint = 'Links are only added, and only by pghc.apply.';
end
$$;

create trigger chain_insert before insert on pghc.chain for each statement
  when (current_setting('pghc.door', true) is distinct from 'open')
  execute function pghc.refuse_change();
create trigger frontier_update before update on pghc.frontier for each statement
  when (current_setting('pghc.door', true) is distinct from 'open')
  execute function pghc.refuse_change();
create trigger chain_change before update or delete or truncate on pghc.chain
  for each statement execute function pghc.refuse_change();
create trigger frontier_change before insert or delete or truncate on pghc.frontier
  for each statement execute function pghc.refuse_change();
create trigger cluster_change before update or delete or truncate on pghc.cluster
  for each statement execute function pghc.refuse_change();
create trigger evidence_change before update or delete or truncate on pghc.evidence
  for each statement execute function pghc.refuse_change();

-- Whether the session that holds the newest epoch may be replaced: it has ended, it is the caller's
-- own, or the caller has watched its lease run out and the server's clock agrees.
--
-- A session is known by process id, login and start of the server. No lock is involved: any login
-- could take a lock that needs no grant and so keep every applier out.
create function pghc.is_vacant(held pghc.frontier, expired_epoch bigint) returns boolean
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  lease_max constant interval := '3 s'; -- an applier renews every second
begin
  -- What is known of sessions is kept until the transaction ends; the caller may have waited.
  perform pg_stat_clear_snapshot();
  return held.backend_pid is null
    or held.server_started is distinct from pg_postmaster_start_time()
    or held.backend_pid = pg_backend_pid()
    or not exists (
      select from pg_stat_get_activity(held.backend_pid) session
        join pg_database on pg_database.oid = session.datid
        where datname = current_database() and session.usesysid = held.backend_login)
    -- In either direction: a clock that was set back must not keep a hung applier in its place.
    or held.epoch is not distinct from expired_epoch
      and held.renewed_at not between clock_timestamp() - lease_max
        and clock_timestamp() + lease_max;
end
$$;

-- Lets the calling session apply under a new epoch, if the newest one is vacant. That ends every
-- right of the session before. Takes no lock unless it is going to grant.
create function pghc.acquire(node text, expired_epoch bigint)
  returns table (granted boolean, epoch bigint, applier text, applied_id bigint, hash text,
    digest bytea, written_at timestamptz)
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  held pghc.frontier;
begin
  select * into held from pghc.frontier;
  granted := pghc.is_vacant(held, expired_epoch);
  if granted then
    select * into held from pghc.frontier for update;
    granted := pghc.is_vacant(held, expired_epoch);
  end if;
  if held.chain is null then
    raise exception 'pghc.frontier has no row' using errcode = 'PH002';
  end if;
  if granted then
    perform set_config('pghc.door', 'open', true);
    update pghc.frontier f
      set epoch = f.epoch + 1, applier = node, renewed_at = clock_timestamp(),
        backend_pid = pg_backend_pid(), server_started = pg_postmaster_start_time(),
        backend_login = (select oid from pg_roles where rolname = session_user)
      returning * into held;
    perform set_config('pghc.door', '', true);
  end if;
  return query select granted, held.epoch, held.applier, held.applied_id, held.hash::text,
    held.digest, held.written_at;
end
$$;

-- Says that the applier lives: renews the lease and answers the newest applied id; null when the
-- calling session does not hold this epoch.
create function pghc.renew(epoch bigint) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  applied bigint;
begin
  perform set_config('pghc.door', 'open', true);
  update pghc.frontier f set renewed_at = clock_timestamp()
    where f.epoch = renew.epoch and f.backend_pid = pg_backend_pid()
      and f.server_started = pg_postmaster_start_time()
    returning f.applied_id into applied;
  perform set_config('pghc.door', '', true);
  return applied;
end
$$;

-- Applies a batch: adds links before_id + 1 to before_id + cardinality(hashes), moves the frontier to
-- the last of them and rings the bell on channel pghc_frontier, all in the caller's transaction.
-- Answers the new applied id.
--
-- Nothing is written and null is answered when the calling session does not hold this epoch, or the
-- frontier is not at before_id: another applier was here. PH003 when the link there has another digest
-- than before_digest, PH002 when a link of the batch does not continue the one before it. Ids are dense
-- by construction; hash and time of the first link, the last and at least 16 between them, of all in a
-- batch of up to 31, are checked against their predecessors'; digests are what the caller says.
create function pghc.apply(epoch bigint, before_id bigint, before_digest bytea, nodes text[],
    hashes text[], digests bytea[], times timestamptz[], payloads json[], ring boolean)
  returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  links constant integer := cardinality(hashes);
  last_id constant bigint := before_id + links;
  before_hash text;
  before_at timestamptz;
  is_same boolean := true;
  -- All links of a small batch are checked. Checking all of 1000 makes applying them a quarter
  -- dearer, and a session that may call this function could as well compute the hashes.
  step constant integer := greatest(links / 16, 1);
  added integer;
  told text;
begin
  told := set_config('pghc.door', 'open', true);
  update pghc.frontier f
    set applied_id = last_id, hash = hashes[links], digest = digests[links],
      written_at = times[links], renewed_at = clock_timestamp()
    from (select) one
      left join pghc.chain c on c.id = before_id and c.digest = before_digest
    where f.chain = 0 and f.applied_id = before_id and f.epoch = apply.epoch
      and f.digest is not distinct from before_digest
      and f.backend_pid = pg_backend_pid() and f.server_started = pg_postmaster_start_time()
    returning c.hash, c.written_at into before_hash, before_at;
  if not found then
    perform from pghc.frontier f
      where f.applied_id = before_id and f.epoch = apply.epoch
        and f.backend_pid = pg_backend_pid() and f.server_started = pg_postmaster_start_time();
    if not found then
      told := set_config('pghc.door', '', true);
      return null;
    end if;
    is_same := false;
  end if;
  if not is_same or before_hash is null and before_id <> 0 then
    raise exception 'link % of this database is not the one that was applied', before_id
      using errcode = 'PH003', hint = 'The chain or the frontier was changed by hand.';
  end if;
  -- Unnesting in the select list spares the copy of all rows that a function in `from` makes. The
  -- arrays of what stands before have one element more; its row has no id and is left out.
  insert into pghc.chain (id, node_id, hash, digest, written_at, payload)
    select link.id, link.node_id, link.hash, link.digest, link.written_at, link.payload
      from (
        select generate_series(before_id + 1, last_id) as id, unnest(nodes) as node_id,
          unnest(hashes) as hash, unnest(digests) as digest, unnest(times) as written_at,
          unnest(payloads) as payload,
          unnest(coalesce(before_hash, '') || hashes) as hash_before,
          unnest(before_at || times) as time_before
      ) link
      where link.id <= last_id
        and ((link.id - before_id - 1) % step <> 0 and link.id <> last_id
          or link.hash = md5(link.id::text || link.node_id || link.hash_before)
            and coalesce(link.written_at >= link.time_before, link.id = 1));
  get diagnostics added = row_count;
  if added <> links then
    raise exception 'of links % to % only % continue the one before', before_id + 1, last_id, added
      using errcode = 'PH002', hint = 'The others have another hash, or an earlier time.';
  end if;
  if ring then
    perform pg_notify('pghc_frontier', '');
  end if;
  told := set_config('pghc.door', '', true);
  return last_id;
end
$$;

-- Keeps what a node has found wrong, with the row as it stands. Fences the zone if fence; otherwise
-- only a zone that is fenced takes it. Answers whether it was kept.
create function pghc.add_evidence(node text, bad_id bigint, what text, expected text, shown text,
    fence boolean)
  returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  kept bigint;
begin
  insert into pghc.evidence (node, id, what, expected, found, link)
    select node, bad_id, what, expected, shown,
        (select chain::text from pghc.chain where chain.id = bad_id)
      where fence or exists (select from pghc.evidence);
  get diagnostics kept = row_count;
  return kept > 0;
end
$$;

revoke all on all functions in schema pghc from public;
grant execute on function pghc.acquire, pghc.renew, pghc.apply, pghc.add_evidence to pghc_applier;
