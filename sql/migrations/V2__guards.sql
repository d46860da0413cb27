-- What makes a gap, a fork or a second applier impossible in SQL itself, whoever inserts.
--
-- Rows and frontier move in one statement or not at all: after a statement that inserts, the chain
-- must end at the frontier; after one that moves the frontier, the link it names must be there.
-- Each check costs a fixed number of index look-ups a statement, plus one pass over the new rows.
--
-- SQLSTATE PH001: this session is not the applier (any more). PH002: the chain would be damaged.

create function pghc.guard_chain_insert() returns trigger language plpgsql as $$
declare
  links bigint;
  first_id bigint;
  last_id bigint;
  first_is_chained boolean;
  last_is_frontier boolean;
begin
  -- One query, because starting one costs more than running it. The link before the first must
  -- exist and be the one that the first was computed from. With the primary key this also says
  -- that the batch starts right behind the old head.
  select added.links, added.first_id, added.last_id,
      (link.id = 1 or before.id is not null)
        and link.hash = pg_catalog.md5(link.id::text || link.node_id || coalesce(before.hash, ''))
        and (before.id is null or link.written_at >= before.written_at),
      frontier.applied_id = added.last_id
    into links, first_id, last_id, first_is_chained, last_is_frontier
    from (select count(*) as links, min(id) as first_id, max(id) as last_id from added) added
    left join pghc.chain link on link.id = added.first_id
    left join pghc.chain before on before.id = added.first_id - 1
    left join pghc.frontier on true;
  if links = 0 then
    return null;
  end if;
  if last_id - first_id + 1 <> links then
    raise exception 'links % to % have a gap: only % of them were given', first_id, last_id, links
      using errcode = 'PH002', hint = 'Insert whole batches in id order.';
  end if;
  if first_is_chained is not true then
    raise exception 'link % does not continue the chain', first_id
      using errcode = 'PH002',
        hint = 'There is no link before it, or it has another hash or a later time.';
  end if;
  if last_is_frontier is not true then
    raise exception 'link % was inserted but the frontier is not at it', last_id
      using errcode = 'PH002',
        hint = 'Only the applier inserts, and moves the frontier in the same statement.';
  end if;
  return null;
end
$$;

create trigger chain_insert after insert on pghc.chain
  referencing new table as added
  for each statement execute function pghc.guard_chain_insert();

create function pghc.refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% of %.% is never allowed', lower(tg_op), tg_table_schema, tg_table_name
    using errcode = 'PH002', hint = 'Links are only added, and the frontier only moves on.';
end
$$;

create trigger chain_change before update or delete or truncate on pghc.chain
  for each statement execute function pghc.refuse_change();
create trigger frontier_change before insert or delete or truncate on pghc.frontier
  for each statement execute function pghc.refuse_change();
create trigger cluster_change before update or delete or truncate on pghc.cluster
  for each statement execute function pghc.refuse_change();

create function pghc.guard_frontier() returns trigger language plpgsql as $$
begin
  if new.epoch <> old.epoch then
    if new.epoch <> old.epoch + 1 then
      raise exception 'epoch % cannot follow epoch %', new.epoch, old.epoch
        using errcode = 'PH002', hint = 'Use pghc.acquire.';
    end if;
    if (new.applied_id, new.hash, new.digest, new.written_at)
        is distinct from (old.applied_id, old.hash, old.digest, old.written_at) then
      raise exception 'a new epoch cannot move the frontier in the same statement'
        using errcode = 'PH002', hint = 'Use pghc.acquire, then apply.';
    end if;
  elsif new.applied_id > old.applied_id then
    -- pghc.acquire has set it for the session that it let in.
    if new.epoch::text is distinct from current_setting('pghc.epoch', true) then
      raise exception 'this session has not acquired epoch %', new.epoch
        using errcode = 'PH001', hint = 'Another applier is at work; this one must stop.';
    end if;
    if new.written_at < old.written_at then
      raise exception 'commit time of link % is before that of link %',
        new.applied_id, old.applied_id using errcode = 'PH002';
    end if;
  elsif (new.applied_id, new.hash, new.digest, new.written_at)
      is distinct from (old.applied_id, old.hash, old.digest, old.written_at) then
    raise exception 'the frontier cannot go back from % to % or change its head',
      old.applied_id, new.applied_id using errcode = 'PH002';
  end if;
  return new;
end
$$;

create trigger frontier_update before update on pghc.frontier
  for each row execute function pghc.guard_frontier();

-- Density up to this link was guarded when it was inserted.
create function pghc.guard_frontier_link() returns trigger language plpgsql as $$
begin
  if not exists (
    select from pghc.chain where id = new.applied_id and hash = new.hash
      and digest = new.digest and written_at = new.written_at
  ) then
    raise exception 'the frontier cannot move to %, there is no such link', new.applied_id
      using errcode = 'PH002',
        hint = 'Insert the links, and give the last one''s hash, digest and time, in one statement.';
  end if;
  return null;
end
$$;

create trigger frontier_link after update on pghc.frontier
  for each row when (new.applied_id <> old.applied_id)
  execute function pghc.guard_frontier_link();
