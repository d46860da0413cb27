-- Whether this login may put another chain in place of the one here: it must act as the owner of the
-- schema, and may create schemas in this database. No row: there is no chain.
select current_user::text, nspowner::regrole::text, current_database()::text,
    pg_has_role(nspowner, 'member') and pg_has_role(nspowner, 'usage'),
    has_database_privilege(current_database(), 'create')
  from pg_namespace where nspname = 'pghc'
