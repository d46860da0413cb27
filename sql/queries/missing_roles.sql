-- Roles of ours that this server does not have.
select name
  from unnest(array['pghc_owner', 'pghc_applier', 'pghc_reader', 'pghc_auditor']) name
  where not exists (select from pg_roles where rolname = name)
