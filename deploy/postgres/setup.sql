-- Prepares a zone's PostgreSQL for pghc, with the least privileges. Run once by a superuser:
--   psql -X -v ON_ERROR_STOP=1 -v database=pghc -f setup.sql
-- Running it again changes nothing. Passwords are not set here: use peer authentication over the
-- Unix socket, or `\password pghc_node` afterwards.
--
--   pghc_owner, pghc_applier, pghc_reader, pghc_auditor   what may be done; nobody logs in as them
--   pghc_setup   logs in to migrate: owns the database, may take every role. Used at first start, at an
--                upgrade that brings a migration, and for `pghc zone reseed` and `pghc zone adopt`.
--   pghc_node    logs in every day: reads, and calls the functions that apply; can write no table.
--   pghc_check   logs in for chain-verify and `pghc recover`: reads only.

set client_min_messages = warning;
select format('create role %I nologin', name)
  from unnest(array['pghc_owner', 'pghc_applier', 'pghc_reader', 'pghc_auditor']) name
  where not exists (select from pg_roles where rolname = name) \gexec
select format('create role %I login', name)
  from unnest(array['pghc_setup', 'pghc_node', 'pghc_check']) name
  where not exists (select from pg_roles where rolname = name) \gexec

grant pghc_owner, pghc_applier, pghc_reader, pghc_auditor to pghc_setup;
grant pghc_applier, pghc_reader to pghc_node;
grant pghc_auditor, pghc_reader to pghc_check;

-- A database of another role may hold more than pghc's chain, so it is not taken over.
select format('do $$begin raise exception %L using hint = %L; end$$',
    format('database %s exists and belongs to %s, not to pghc_setup', datname, rolname),
    format('name another database, or, if it is for pghc alone: alter database %I owner to pghc_setup', datname))
  from pg_database join pg_roles on pg_roles.oid = datdba
  where datname = :'database' and rolname <> 'pghc_setup' \gexec
select format('create database %I owner pghc_setup encoding ''UTF8'' template template0', :'database')
  where not exists (select from pg_database where datname = :'database') \gexec
revoke all on database :"database" from public;
grant connect on database :"database" to pghc_node, pghc_check;
