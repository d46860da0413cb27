-- Sets the chain of this zone aside, whole and as it stands, under the schema name in the setting
-- pghc.aside. Other sessions of ours are ended first: they hold locks, plans and the right to apply.
-- The view goes, since readers must not be shown what was set aside.
do $$
begin
  perform pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and application_name like 'pghc %';
  drop view if exists public.chain;
  execute format('alter schema pghc rename to %I', current_setting('pghc.aside'));
end
$$
