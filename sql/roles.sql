-- The roles of a zone's database, least privilege each. None may log in by itself: a login role is
-- made a member of what it needs, and our code says `set role` right after it has logged in.
--
-- Roles belong to the whole server, not to one database: they may exist already, and somebody may
-- create them in the same moment for another database. Both are fine. Run it as a superuser, or as
-- a role with createrole; once the four exist and the login role is a member, it does nothing.
do $$
declare
  role_name text;
  mode text := case when current_setting('server_version_num')::integer >= 160000
    then 'set' else 'member' end;
begin
  foreach role_name in array array['pghc_owner', 'pghc_applier', 'pghc_reader', 'pghc_auditor']
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then
        null; -- created for another database since we looked
      end;
    end if;
    if not pg_has_role(session_user, role_name, mode) then
      execute format('grant %I to %I', role_name, session_user);
    end if;
  end loop;
end
$$;
