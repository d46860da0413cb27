//! Rights of pghc's roles and of a foreign login: every object in the database, from a login
//! without grants to the applier's own role.

use pghc_postgres::ReadError;

use super::*;

impl Database {
    /// A session of a login that may connect and nothing else.
    async fn stranger(&self) -> Client {
        let login = "do $$ begin create role stranger login password 'sesame'; \
                     exception when others then null; end $$";
        self.admin.batch_execute(login).await.unwrap();
        let dsn = self.dsn_of("stranger");
        dsn.connect(Role::Login, "stranger", &self.tasks).await.unwrap()
    }

    /// The database as login `login` sees it.
    fn dsn_of(&self, login: &str) -> Dsn {
        let (port, name) = (self.shared.server.port(), &self.name);
        format!("postgres://{login}:sesame@127.0.0.1:{port}/{name}").parse().unwrap()
    }

    /// A session of role pghc_applier that has acquired nothing.
    async fn other_applier(&self) -> Client {
        self.dsn.connect(Role::Applier, "test", &self.tasks).await.unwrap()
    }
}

/// A call of `pghc.apply` for link 6 behind five links, in epoch 1.
const APPLY: &str = "select pghc.apply(1, 5, digest, array['api-1'], \
    array[md5('6' || 'api-1' || hash)], array[digest], array[written_at], \
    array[null]::json[], true) from pghc.frontier";

#[tokio::test]
async fn applier_role_writes_nothing_without_the_epoch() {
    let database = Database::migrated().await;
    let applier = database.applier(Commit::OnDisk).await;
    let (epoch, _) = acquire(&applier, None).await;
    let all = links(None, 6);
    applier.apply(epoch, &part(&all, 0..5)).await.unwrap();
    let other = database.other_applier().await;
    for settings in ["", "set pghc.epoch = '1'; set pghc.door = 'open'"] {
        other.batch_execute(settings).await.unwrap();
        let row = other.query_one(APPLY, &[]).await.unwrap();
        assert_eq!(row.get::<_, Option<i64>>(0), None, "{settings}");
        let row = other.query_one("select pghc.renew(1)", &[]).await.unwrap();
        assert_eq!(row.get::<_, Option<i64>>(0), None, "{settings}");
        for expired in ["null", "1", "0"] {
            let sql = format!("select granted from pghc.acquire('x', {expired})");
            let row = other.query_one(&sql, &[]).await.unwrap();
            assert!(!row.get::<_, bool>(0), "{settings} {expired}: the applier lives");
        }
        for sql in [
            "update pghc.frontier set epoch = epoch + 1",
            "update pghc.frontier set renewed_at = '-infinity'",
            "insert into pghc.chain select 6, node_id, hash, digest, written_at from pghc.chain",
            "select * from pghc.frontier for update",
            "begin; lock table pghc.frontier in exclusive mode",
            "insert into pghc.evidence (node, id, what, expected, found) values ('x', 1, '', '', '')",
            "select pghc.is_vacant(frontier, 1) from pghc.frontier",
        ] {
            let error = other.batch_execute(sql).await.expect_err(sql);
            assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}");
            other.batch_execute("rollback").await.unwrap();
        }
    }
    // A transaction that is left open holds nothing that the applier needs.
    other.batch_execute(&format!("begin; {APPLY}")).await.unwrap();
    other.batch_execute("select pghc.acquire('x', 1), pghc.renew(1)").await.unwrap();
    applier.apply(epoch, &part(&all, 5..6)).await.unwrap();
    assert_eq!(applier.renew(epoch).await.unwrap(), 6);
    assert_eq!(database.verify().await, []);
}

#[tokio::test]
async fn batch_behind_another_digest_is_forked_not_fenced() {
    let database = Database::migrated().await;
    let applier = database.applier(Commit::OnDisk).await;
    let (epoch, _) = acquire(&applier, None).await;
    let all = links(None, 3);
    applier.apply(epoch, &part(&all, 0..2)).await.unwrap();
    let forked = |done| matches!(done, Err(ApplyError::Forked { applied_id: 2 }));
    let other = Batch::new(Some(all[0].digest), all[2..].to_vec());
    assert!(forked(applier.apply(epoch, &other).await));
    // The frontier is left alone, the row before is not.
    let edit = "set session_replication_role = replica; \
                update pghc.chain set digest = sha256('x') where id = 2";
    database.admin.batch_execute(edit).await.unwrap();
    assert!(forked(applier.apply(epoch, &part(&all, 2..3)).await));
    assert_eq!(Reader::new(&database.dsn, 1).frontier().await.unwrap(), 2);
}

#[tokio::test]
async fn statements_by_hand_are_refused_even_of_the_owner() {
    let (database, _) = Database::with_links(2).await;
    for table in ["pghc.chain", "pghc.frontier", "pghc.cluster"] {
        for sql in [format!("delete from {table}"), format!("truncate {table}")] {
            let got = database.refused("pghc_owner", &sql).await;
            assert!(got.starts_with("PH002") && got.ends_with("never allowed"), "{sql}: {got}");
        }
    }
    for (sql, what) in [
        ("update pghc.chain set payload = null", "update of pghc.chain"),
        ("update pghc.frontier set epoch = epoch + 1", "update of pghc.frontier"),
        ("insert into pghc.frontier select * from pghc.frontier", "insert of pghc.frontier"),
        (
            "insert into pghc.chain select 3, node_id, hash, digest, written_at from pghc.chain",
            "insert of pghc.chain",
        ),
    ] {
        let got = database.refused("pghc_owner", sql).await;
        assert_eq!(got, format!("PH002 {what} is never allowed"), "{sql}");
    }
}

#[tokio::test]
async fn roles_have_only_their_documented_rights() {
    let (database, _) = Database::with_links(2).await;
    let writes = [
        "select pghc.add_evidence('x', 1, '', '', '', false)",
        "select pghc.acquire('x', null)",
        "select pghc.renew(1)",
        APPLY,
        "insert into pghc.chain select 9, node_id, hash, digest, written_at from pghc.chain",
        "update pghc.frontier set applier = 'x'",
        "update pghc.chain set payload = null",
        "delete from pghc.chain",
        "truncate pghc.chain",
        "insert into pghc.cluster values (gen_random_uuid(), 'x')",
        "alter table pghc.chain disable trigger all",
        "create table pghc.mine ()",
        "set session_replication_role = replica",
    ];
    for (role, allowed) in [("pghc_applier", 4), ("pghc_reader", 0), ("pghc_auditor", 0)] {
        for sql in &writes[allowed..] {
            let got = database.refused(role, sql).await;
            assert!(got.starts_with("42501"), "{role} {sql}: {got}");
        }
    }
    for role in ["pghc_applier", "pghc_reader"] {
        let got = database.refused(role, "select * from pghc.verify()").await;
        assert!(got.starts_with("42501"), "{got}");
    }
    let auditor = database.dsn.connect(Role::Auditor, "test", &database.tasks).await.unwrap();
    assert!(auditor.query("select * from pghc.verify()", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn bell_of_a_stranger_moves_no_frontier() {
    let database = Database::migrated().await;
    let mut heard = listen(&database.dsn).await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap(), 0);
    let stranger = database.stranger().await;
    for payload in ["1000000000000", "18446744073709551615", "-1", "x", ""] {
        stranger.batch_execute(&format!("notify pghc_frontier, '{payload}'")).await.unwrap();
    }
    let applier = database.applier(Commit::OnDisk).await;
    let (epoch, _) = acquire(&applier, None).await;
    let all = links(None, 5);
    applier.apply(epoch, &part(&all, 0..3)).await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap(), 3);
    // A bell that is missing is not waited for.
    applier.apply(epoch, &part(&all, 3..4)).await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn locks_of_a_stranger_keep_no_applier_out() {
    let database = Database::empty().await;
    let stranger = database.stranger().await;
    let take = "select count(pg_advisory_lock(1885825123, n)) from generate_series(-1, 2000) n";
    stranger.batch_execute(take).await.unwrap();
    database.migrate().await.unwrap();
    let old = database.applier(Commit::OnDisk).await;
    let (old_epoch, _) = acquire(&old, None).await;
    drop(old);
    let new = database.applier(Commit::OnDisk).await;
    let node = "api-2".parse().unwrap();
    loop {
        match new.acquire(&node, None).await.unwrap() {
            Acquired::Granted { epoch, .. } => break assert_eq!(epoch, old_epoch + 1),
            Acquired::Held { .. } => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn restarted_server_lets_the_next_applier_in_at_once() {
    let (database, _) = Database::with_links(2).await;
    // Another process of another life of the server may have the same id.
    let sql = "set pghc.door = 'open'; \
               update pghc.frontier set backend_pid = pg_backend_pid(), \
                   server_started = server_started - interval '1 s'; \
               reset pghc.door";
    database.admin.batch_execute(sql).await.unwrap();
    let applier = database.applier(Commit::OnDisk).await;
    assert_eq!(acquire(&applier, None).await.0, 2);
}

#[tokio::test]
async fn publication_for_all_tables_stops_nothing() {
    let database = Database::migrated().await;
    database.admin.batch_execute("create publication p for all tables").await.unwrap();
    let applier = database.applier(Commit::OnDisk).await;
    let (epoch, _) = acquire(&applier, None).await;
    applier.apply(epoch, &part(&links(None, 3), 0..3)).await.unwrap();
    assert_eq!(applier.renew(epoch).await.unwrap(), 3);
    let without = "select relname::text from pg_class where relkind = 'r' \
                   and relnamespace = 'pghc'::regnamespace and relreplident = 'd' and not exists \
                   (select from pg_index where indrelid = pg_class.oid and indisprimary)";
    assert!(database.admin.query(without, &[]).await.unwrap().is_empty());
    let adopt = "alter table pghc.cluster disable trigger cluster_change; \
                 update pghc.cluster set zone = 'ap'; \
                 alter table pghc.cluster enable trigger cluster_change";
    database.admin.batch_execute(adopt).await.unwrap();
}

#[tokio::test]
async fn search_path_of_the_database_misleads_no_function() {
    let (database, _) = Database::with_links(10).await;
    let evil = "create schema evil; grant usage on schema evil to public; \
        create function evil.encode(bytea, text) returns text language sql as 'select null::text'; \
        create function evil.md5(text) returns text language sql as 'select null::text'; \
        create function evil.sha256(bytea) returns bytea language sql as 'select null::bytea'; \
        create function evil.pg_backend_pid() returns integer language sql as 'select 0'; \
        set session_replication_role = replica; \
        update pghc.chain set payload = '1' where id = 5; \
        set session_replication_role = origin";
    database.admin.batch_execute(evil).await.unwrap();
    let path = format!("alter database {} set search_path = evil, pg_catalog", database.name);
    database.admin.batch_execute(&path).await.unwrap();
    // An auditor's own psql, which does not set the path as our sessions do.
    let text = database.shared.server.dsn().replace("/pghc", &format!("/{}", database.name));
    let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
    database.tasks.spawn("psql", async move { drop(connection.await) });
    client.batch_execute("set role pghc_auditor").await.unwrap();
    let row = client.query_one("select encode('', 'hex')", &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), None, "the path is the evil one");
    let rows = client.query("select id, what from pghc.verify()", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].get::<_, i64>(0), rows[0].get::<_, &str>(1)), (5, "digest"));
    let findings = database.migrate().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].to_string().contains("search_path=evil, pg_catalog in this database"));
    let without = "select proname::text from pg_proc where pronamespace = 'pghc'::regnamespace \
                   and not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']";
    assert!(database.admin.query(without, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn link_function_without_id_is_reported_with_schema() {
    let (database, _) = Database::with_links(10).await;
    let sql = "set session_replication_role = replica; \
        alter table pghc.chain drop constraint chain_pkey, alter column id drop not null; \
        update pghc.chain set id = null where id = 5; \
        set session_replication_role = origin";
    database.admin.batch_execute(sql).await.unwrap();
    let reader = Reader::new(&database.dsn, 1);
    let missing =
        |id| move |error| matches!(error, ReadError::Missing { id: found } if found == id);
    let five = WriteId::try_from(5).unwrap();
    assert!(reader.link(five).await.is_err_and(missing(5)));
    assert!(reader.page(0, 100).await.is_err_and(missing(5)));
    assert!(reader.recent(8).await.is_err_and(missing(5)));
    assert!(reader.recent(5).await.is_ok());
    let found: Vec<String> =
        reader.findings().await.unwrap().iter().map(ToString::to_string).collect();
    for want in ["constraint pghc.chain chain_pkey PRIMARY KEY (id)", "pghc.chain.id bigint"] {
        assert!(found.iter().any(|line| line.contains(want)), "{want}: {found:?}");
    }
    assert!(matches!(database.migrate().await, Err(MigrateError::Unfit(_))));
}

#[tokio::test]
async fn view_that_shows_something_else_is_found() {
    let (database, _) = Database::with_links(2).await;
    let sql = "create or replace view public.chain (zk_id, hash, node_id) as \
               select id, hash, node_id from pghc.chain where id <> 1";
    database.admin.batch_execute(sql).await.unwrap();
    let found = Reader::new(&database.dsn, 1).findings().await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|finding| finding.is_fatal() && finding.to_string().contains("view")));
}

#[tokio::test]
async fn full_notification_queue_delays_a_batch_only() {
    let database = Database::migrated().await;
    // PostgreSQL's words for a queue without room, twice; the server's real one takes 8 GB.
    let full = "create sequence pghc.tries; grant usage on sequence pghc.tries to public; \
        create function pghc.fill() returns trigger language plpgsql as $$ begin \
          if nextval('pghc.tries') <= 2 then \
            raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000'; \
          end if; return null; end $$; \
        create trigger fill after insert on pghc.chain for each statement execute function pghc.fill()";
    database.admin.batch_execute(full).await.unwrap();
    let applier = database.applier(Commit::OnDisk).await;
    let (epoch, _) = acquire(&applier, None).await;
    let batch = part(&links(None, 3), 0..3);
    let first = applier.apply(epoch, &batch).await;
    assert!(matches!(first, Err(ApplyError::Lost(Some(_)))), "{first:?}");
    applier.apply(epoch, &batch).await.unwrap();
}

#[tokio::test]
async fn a_login_with_the_least_roles_can_serve_a_current_database() {
    let (database, _) = Database::with_links(2).await;
    let login = "do $$ begin create role pghc_node login password 'sesame'; \
                   exception when others then null; end $$;
                 alter role pghc_node password 'sesame'; grant pghc_applier, pghc_reader to pghc_node";
    database.admin.batch_execute(login).await.unwrap();
    let dsn = database.dsn_of("pghc_node");
    database.age().await;
    let migrated = migrate(&dsn, &cluster(), &"eu".parse().unwrap(), &database.tasks).await;
    assert_eq!(migrated.unwrap(), []);
    let applier = Applier::connect(&dsn, Commit::OnDisk, &database.tasks).await.unwrap();
    let (epoch, head) = acquire(&applier, Some(1)).await;
    applier
        .apply(epoch, &Batch::new(head.map(|head| head.digest), links(head.as_ref(), 3)))
        .await
        .unwrap();
    assert_eq!(Reader::new(&dsn, 1).frontier().await.unwrap(), 5);
}
