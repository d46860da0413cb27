-- Our schema as it stands, one line for each thing that matters to the chain's safety, in a form
-- that does not differ between PostgreSQL versions. sql/schema.txt holds what it must answer.
with ours as (
  select c.oid, n.nspname || '.' || c.relname as name, c.relowner, c.relacl, c.relrowsecurity,
      c.relpersistence
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pghc' and c.relname in ('chain', 'cluster', 'evidence', 'frontier')
      or n.nspname = 'public' and c.relname = 'chain'
)
select regexp_replace(line, '\s+', ' ', 'g') as line from (
  select 'table ' || name || ' of ' || relowner::regrole
      || case when relpersistence <> 'p' then ' not logged' else '' end
      || case when relrowsecurity then ' with row security' else '' end as line
    from ours
  union all
  select 'column ' || name || '.' || attname || ' ' || format_type(atttypid, atttypmod)
      || case when attnotnull then ' not null' else '' end
      || case when atthasdef then ' with default' else '' end
    from ours join pg_attribute on attrelid = oid and attnum > 0 and not attisdropped
  union all
  select 'constraint ' || name || ' ' || conname || ' ' || pg_get_constraintdef(c.oid)
    from ours join pg_constraint c on conrelid = ours.oid and contype <> 'n'
  union all
  select 'index ' || pg_get_indexdef(indexrelid)
      || case when indisvalid then '' else ' not valid' end
    from ours join pg_index on indrelid = oid where indisunique
  union all
  select 'trigger ' || pg_get_triggerdef(t.oid)
      || case when tgenabled in ('O', 'A') then '' else ' disabled' end
    from ours join pg_trigger t on tgrelid = ours.oid and not tgisinternal
  union all
  select 'rule ' || name || ' ' || rulename
    from ours join pg_rewrite on ev_class = ours.oid and rulename <> '_RETURN'
  union all
  select 'function ' || p.oid::regprocedure || ' of ' || proowner::regrole || ' ' || lanname
      || case provolatile when 'i' then ' immutable' when 's' then ' stable' else ' volatile' end
      || case when prosecdef then ' security definer' else '' end
      -- A body without source is a parsed one, whose form depends on the version.
      || ' ' || case when prosrc = '' then 'parsed' else md5(prosrc) end
    from pg_proc p join pg_language l on l.oid = prolang where pronamespace = 'pghc'::regnamespace
  union all
  select 'grant ' || lower(privilege_type) || ' on ' || name || ' to '
      || case grantee when 0 then 'public' else grantee::regrole::text end
    from ours cross join aclexplode(relacl)
    where grantee <> relowner and (
      privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES')
      or privilege_type = 'SELECT' and grantee::regrole::text like 'pghc\_%')
) schema
order by line collate "C"
