-- Settings of this database and of the logins that can connect to it which mislead sessions that pghc
-- does not open itself. Its own sessions and functions set both themselves.
select distinct setting || case when setrole = 0 then '' else ' for role ' || setrole::regrole::text end
    || case when setdatabase = 0 then '' else ' in this database' end
  from pg_db_role_setting cross join unnest(setconfig) setting
  where setdatabase in (0, (select oid from pg_database where datname = current_database()))
    and setting ~ '^(search_path|session_replication_role)='
  order by 1
