-- Sets the chain of this zone aside, whole and as it stands, under the schema name in the setting
-- pghc.aside. A batch that is being applied is waited for. Sessions of nodes stay: what they prepared
-- names tables of schema pghc, and finds the new ones after the commit. The view goes, since readers
-- must not be shown what was set aside; its functions may not be called any more, since they would
-- write to the new tables.
set local role pghc_owner;
lock table pghc.frontier in exclusive mode;
revoke usage on schema pghc from pghc_applier;
set local role none;
drop view if exists public.chain;
do $$
begin
  execute format('alter schema pghc rename to %I', current_setting('pghc.aside'));
end
$$;
