-- What the catalogue says of the relations that hold the chain: a verifier compares it with what
-- readers are served from. Nothing here reads a row of theirs.
select n.nspname || '.' || c.relname, c.relkind::text, c.relrowsecurity,
    coalesce((
      select array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) order by a.attnum)
        from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
      array[]::text[]),
    exists (
      select from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
        where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indnkeyatts = 1
          and i.indpred is null and a.attname = 'id' and a.attnotnull),
    case when c.relkind = 'v' then pg_get_viewdef(c.oid) end,
    exists (select from pg_inherits where inhparent = c.oid)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'pghc' and c.relname in ('chain', 'frontier', 'cluster')
    or n.nspname = 'public' and c.relname = 'chain'
  order by n.nspname, c.relname
