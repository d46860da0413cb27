-- The chain check in pure SQL. It shares nothing with the Rust one but the published formulae.

-- SHA-256 over seven fields, each preceded by its length as a 4-byte big-endian number; see the
-- digest formula in api/src/chain.rs. Null when a field that must be there is not.
create function pghc.link_digest(cluster_id uuid, id bigint, node_id text, written_at timestamptz,
    payload json, previous bytea)
  returns bytea language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select sha256(
    int4send(6) || convert_to('pghc/1', 'UTF8')
    || int4send(36) || convert_to(cluster_id::text, 'UTF8')
    || int4send(8) || int8send(id)
    || int4send(octet_length(convert_to(node_id, 'UTF8'))) || convert_to(node_id, 'UTF8')
    || int4send(8) || int8send(
      case when isfinite(written_at) then (extract(epoch from written_at) * 1000000)::bigint end)
    || case when payload is null then int4send(0)
      else int4send(32) || sha256(convert_to(payload::text, 'UTF8')) end
    || case when previous is null then int4send(0)
      else int4send(octet_length(previous)) || previous end
  )
$$;
comment on function pghc.link_digest is 'The digest of a link, from its columns and the digest before.';

-- Checks links first_id to last_id, both included, and answers one row per violation; no row means
-- proved. Null means from the first, or to the last, rows beyond the frontier included. It streams
-- in id order. When the range reaches the head, the frontier must agree with it; a range beyond
-- the head is a violation, because what is not there is not proved.
create function pghc.verify(first_id bigint default null, last_id bigint default null)
  returns table (id bigint, what text, expected text, found text)
  language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  low bigint; -- one below the first, for the link that the first was computed from
  high bigint := coalesce(last_id, 9223372036854775807);
  cluster uuid;
  head pghc.frontier;
  newest bigint;
begin
  if first_id < 1 or last_id < coalesce(first_id, 1) then
    raise exception 'links % to % are no range', first_id, last_id
      using errcode = 'invalid_parameter_value', hint = 'Ids start at 1.';
  end if;
  low := case when first_id > 1 then first_id - 1 else -9223372036854775808 end;
  select c.cluster_id into cluster from pghc.cluster c;
  select * into head from pghc.frontier;
  if cluster is null or head is not distinct from null then
    return query select null::bigint, 'database'::text,
      'one row each in pghc.cluster and pghc.frontier'::text, null::text;
    return;
  end if;

  if first_id > 1 and not exists (select from pghc.chain c where c.id = low) then
    return query select low, 'link'::text, 'the link before the first'::text, null::text;
  end if;
  return query
    select link.id, fault.what, fault.expected, fault.found
    from (
      select c.*,
        coalesce(lag(c.id) over w + 1, first_id, 1) as id_due,
        lag(c.hash::text) over w as hash_before,
        lag(c.digest) over w as digest_before,
        lag(c.written_at) over w as written_at_before
      from pghc.chain c where c.id between low and high
      window w as (order by c.id)
    ) link
    cross join lateral (
      select md5(link.id::text || link.node_id || coalesce(link.hash_before, '')) as hash,
        pghc.link_digest(cluster, link.id, link.node_id, link.written_at, link.payload,
          link.digest_before) as digest
    ) due
    cross join lateral (values
      ('id', link.id_due::text, link.id::text),
      ('written_at', 'not before ' || link.written_at_before, case
        when link.written_at >= coalesce(link.written_at_before, '-infinity')
        then 'not before ' || link.written_at_before else link.written_at::text end),
      ('hash', due.hash, link.hash::text),
      ('digest', encode(due.digest, 'hex'), encode(link.digest, 'hex'))
    ) fault (what, expected, found)
    where (first_id is null or link.id >= first_id or first_id = 1)
      and (link.id <> link.id_due
        or due.hash is distinct from link.hash::text
        or due.digest is null or due.digest is distinct from link.digest
        or (link.written_at >= coalesce(link.written_at_before, '-infinity')) is not true)
      and (fault.expected is distinct from fault.found or fault.expected is null
        and fault.what = 'digest');

  select max(c.id) into newest from pghc.chain c where c.id between low and high;
  if coalesce(newest, 0) < coalesce(last_id, head.applied_id) then
    return query select coalesce(newest, 0) + 1, 'link'::text,
      'links up to ' || coalesce(last_id, head.applied_id), 'none after ' || coalesce(newest, 0);
  end if;
  if high >= head.applied_id then
    if newest > head.applied_id then
      return query select head.applied_id + 1, 'frontier'::text,
        'no link after ' || head.applied_id, 'links up to ' || newest;
    end if;
    return query
      select head.applied_id, 'frontier'::text, one.head, one.link
      from (select c.hash, c.digest, c.written_at from pghc.chain c where c.id = head.applied_id
        ) link
      cross join lateral (values
        (head.hash::text, link.hash::text),
        (encode(head.digest, 'hex'), encode(link.digest, 'hex')),
        (head.written_at::text, link.written_at::text)
      ) one (head, link)
      where one.head is distinct from one.link;
  end if;
end
$$;
comment on function pghc.verify is 'The chain check: one row per violation, no row when proved.';

revoke all on function pghc.verify(bigint, bigint) from public;
revoke all on function pghc.link_digest(uuid, bigint, text, timestamptz, json, bytea) from public;
grant execute on function pghc.verify(bigint, bigint) to pghc_auditor;
grant execute on function pghc.link_digest(uuid, bigint, text, timestamptz, json, bytea)
  to pghc_auditor;
