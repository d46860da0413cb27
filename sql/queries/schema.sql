-- Our schema as it stands, one line for each thing that matters to the chain's safety, in a form
-- that does not differ between PostgreSQL versions. sql/schema.txt holds what it must answer.
with ours as (
  select c.oid, n.nspname || '.' || c.relname as name, c.relkind, c.relowner, c.relacl,
      c.relrowsecurity, c.relforcerowsecurity, c.relpersistence, c.relreplident, c.reloptions
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pghc'
        and c.relname in ('chain', 'cluster', 'evidence', 'frontier', 'migration')
      or n.nspname = 'public' and c.relname = 'chain'
), functions as (
  select p.oid, p.oid::regprocedure::text as name, p.proowner, p.proacl, p.provolatile,
      p.prosecdef, p.proconfig, p.prosrc, l.lanname
    from pg_proc p join pg_language l on l.oid = p.prolang
    where p.pronamespace = 'pghc'::regnamespace
)
select regexp_replace(line, '\s+', ' ', 'g') as line from (
  select 'schema pghc of ' || nspowner::regrole as line from pg_namespace where nspname = 'pghc'
  union all
  select 'table ' || name || ' of ' || relowner::regrole
      || case when relpersistence <> 'p' then ' not logged' else '' end
      || case when relrowsecurity then ' with row security' else '' end
      || case when relforcerowsecurity then ' forced on its owner' else '' end
      || case when relkind = 'v' and reloptions is not null
        then ' with ' || array_to_string(reloptions, ', ') else '' end
    from ours
  union all
  -- Any but none will do for an update under a publication.
  select 'replica identity ' || name || ' nothing' from ours where relreplident = 'n' and relkind = 'r'
  union all
  select 'policy ' || name || ' ' || polname from ours join pg_policy on polrelid = ours.oid
  union all
  select 'inheritance ' || inhrelid::regclass || ' of ' || inhparent::regclass
    from ours join pg_inherits on oid in (inhrelid, inhparent)
  union all
  -- Newer versions leave the table's name out before columns.
  select 'view ' || name || regexp_replace(pg_get_viewdef(oid), '\mchain\.', '', 'g')
    from ours where relkind = 'v'
  union all
  select 'column ' || name || '.' || attname || ' ' || format_type(atttypid, atttypmod)
      || case when attcollation not in (0, 100, 950)
        then ' collate ' || attcollation::regcollation else '' end
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
  -- Whether it runs after the statement is in its type: its name may say anything.
  select 'trigger ' || case when tgtype & 66 = 0 then 'after ' else '' end || pg_get_triggerdef(t.oid)
      || case when tgenabled in ('O', 'A') then '' else ' disabled' end
    from ours join pg_trigger t on tgrelid = ours.oid and not tgisinternal
  union all
  select 'rule ' || name || ' ' || rulename
    from ours join pg_rewrite on ev_class = ours.oid and rulename <> '_RETURN'
  union all
  select 'function ' || name || ' of ' || proowner::regrole || ' ' || lanname
      || case provolatile when 'i' then ' immutable' when 's' then ' stable' else ' volatile' end
      || case when prosecdef then ' security definer' else '' end
      || case when proconfig is null then '' else ' set ' || array_to_string(proconfig, ' set ') end
      || ' ' || md5(prosrc)
    from functions
  union all
  select 'grant ' || privilege_type || ' on ' || name || ' to '
      || case grantee when 0 then 'public' else grantee::regrole::text end
    from ours cross join aclexplode(relacl)
    where grantee <> relowner and (
      privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES')
      or privilege_type = 'SELECT' and grantee::regrole::text like 'pghc\_%')
  union all
  select 'grant ' || privilege_type || ' on ' || name || ' to '
      || case grantee when 0 then 'public' else grantee::regrole::text end
    from functions cross join aclexplode(coalesce(proacl, acldefault('f', proowner)))
    where grantee <> proowner
  union all
  select 'grant ' || privilege_type || ' on schema pghc to '
      || case grantee when 0 then 'public' else grantee::regrole::text end
    from pg_namespace cross join aclexplode(nspacl)
    where nspname = 'pghc' and grantee <> nspowner
      and (privilege_type = 'CREATE' or grantee::regrole::text like 'pghc\_%')
) schema
order by line collate "C"
