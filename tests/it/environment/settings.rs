//! Settings of server, database and login that change how text is read, printed, compared or timed
//! out, and collations: none of them reaches a session of ours.

use futures::{StreamExt as _, TryStreamExt as _};
use pghc_postgres::raw::RawChain;
use pghc_postgres::reseed::Operator;
use pghc_postgres::{Batch, Dsn, Finding, Reader, Role, listen};

use super::Place;
use crate::harness::wait_for;

/// Awkward settings. Settings that a version lacks are left out.
const AWKWARD: &[(&str, &str)] = &[
    ("quote_all_identifiers", "on"),
    ("search_path", "evil, public"),
    ("datestyle", "german, dmy"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "Pacific/Chatham"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "on"),
    ("escape_string_warning", "on"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("xmloption", "document"),
    ("xmlbinary", "hex"),
    ("client_encoding", "latin1"),
    ("client_min_messages", "error"),
    ("exit_on_error", "on"),
    ("check_function_bodies", "off"),
    ("row_security", "on"),
    ("synchronous_commit", "off"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("default_transaction_read_only", "on"),
    ("statement_timeout", "1ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("idle_session_timeout", "1ms"),
    ("transaction_timeout", "300ms"),
    ("client_connection_check_interval", "1s"),
    ("jit", "on"),
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("lc_monetary", "POSIX"),
    ("lc_numeric", "POSIX"),
    ("lc_time", "POSIX"),
    // These are not pinned, since they change no text: the path must work with them.
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("work_mem", "64kB"),
    ("debug_parallel_query", "on"),
    ("force_parallel_mode", "on"),
    ("plpgsql.extra_errors", "all"),
    ("plpgsql.variable_conflict", "use_column"),
    ("default_toast_compression", "pglz"),
    ("restrict_nonsystem_relation_kind", "view"),
];

/// Settings that a session may keep.
const UNTOUCHED: &str = "'{enable_hashjoin,enable_mergejoin,enable_material,work_mem,\
    debug_parallel_query,force_parallel_mode,plpgsql.extra_errors,plpgsql.variable_conflict,\
    default_toast_compression,restrict_nonsystem_relation_kind}'::text[]";

/// Everything that is done with a zone's database in its life.
async fn whole_path(place: &Place, dsn: &Dsn) {
    let links = place.fill(dsn, 10).await;
    let findings = place.migrate(dsn).await.expect("it is still fit");
    assert!(findings.iter().all(|it| matches!(it, Finding::Setting(_))), "{findings:?}");
    let reader = Reader::new(dsn, 2);
    let page = reader.page(0, 100).await.expect("it reads");
    assert_eq!((page.links.as_slice(), page.frontier), (links.as_slice(), 10));
    assert_eq!(
        reader.head().await.expect("it reads"),
        Some(Batch::new(None, links.clone()).head())
    );
    assert_eq!(reader.recent(3).await.expect("it reads").0.len(), 3);
    let mut listener = listen(dsn).await.expect("it listens");
    assert_eq!(listener.next().await.expect("a first id").expect("an id"), 10);

    let chain = RawChain::connect(dsn, &place.tasks).await.expect("the auditor connects");
    assert_eq!(chain.head().await.expect("it reads").last_id, Some(10));
    let rows: Vec<_> = chain.links(1, 10).try_collect().await.expect("it reads");
    let due = links.iter().map(|link| link.payload.as_ref().map(|text| text.as_bytes()));
    assert!(rows.iter().map(|row| row.payload()).eq(due), "payloads byte for byte");
    let auditor = dsn.connect(Role::Auditor, "test", &place.tasks).await.expect("it connects");
    let found = auditor.query("select * from pghc.verify()", &[]).await.expect("it verifies");
    assert!(found.is_empty(), "{found:?}");

    let mut operator = Operator::connect(dsn, &place.tasks).await.expect("the operator connects");
    let standing = operator.standing().await.expect("it reads").expect("a chain");
    assert_eq!((standing.zone.as_str(), standing.applied_id), ("eu", 10));
    operator.replace("pghc_evidence_1", None).await.expect("the chain is set aside");
    place.fill(dsn, 3).await;
    assert_eq!(Reader::new(dsn, 1).frontier().await.expect("it reads"), 3);
}

#[tokio::test]
async fn session_ignores_settings_of_database_or_login() {
    let place = Place::new().await;
    place
        .sql("create schema evil; create function evil.md5(text) returns text return 'evil'")
        .await;
    for (name, value) in AWKWARD {
        let known = "select from pg_settings where name = $1";
        let is_ours = name.starts_with("plpgsql.");
        if !is_ours && place.admin.query(known, &[&name.to_lowercase()]).await.unwrap().is_empty() {
            continue;
        }
        let value = if *name == "search_path" { (*value).to_owned() } else { format!("'{value}'") };
        for whose in ["database", "role"] {
            place.sql(&format!("alter {whose} {} set {name} = {value}", place.name)).await;
        }
    }
    // The first session with a server learns its version; before that a time limit that only newer
    // versions have may end it.
    let dsn = place.dsn();
    wait_for("a first session", async || dsn.connect(Role::Login, "test", &place.tasks).await.ok())
        .await;
    for role in [Role::Login, Role::Auditor] {
        let client = dsn.connect(role, "test", &place.tasks).await.expect("it connects");
        let sql = format!(
            "select name, setting from pg_settings where source in ('database', 'user', \
             'database user') and name <> all ({UNTOUCHED})"
        );
        let foreign = client.query(&sql, &[]).await.expect("it reads");
        let foreign: Vec<(String, String)> =
            foreign.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(foreign, [], "settings of database or login in a session of {role:?}");
    }
    whole_path(&place, &dsn).await;
    for role in [Role::Applier, Role::Reader] {
        let client = dsn.connect(role, "test", &place.tasks).await.expect("it connects");
        let idle = client.query_one("show idle_session_timeout", &[]).await.expect("it reads");
        assert_eq!(idle.get::<_, &str>(0), "0", "{role:?}");
    }
}

#[tokio::test]
async fn turkish_collation_does_not_change_names() {
    let words = "template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C' \
                 locale_provider icu icu_locale 'tr'";
    let Some(place) = Place::with(words).await else {
        eprintln!(
            "SKIPPED: this PostgreSQL has no ICU collations for databases (14, or built without)"
        );
        return;
    };
    let lower = place.admin.query_one("select lower('I')", &[]).await.unwrap();
    assert_eq!(lower.get::<_, &str>(0), "ı", "the collation is the awkward one");
    whole_path(&place, &place.dsn()).await;
}

#[tokio::test]
async fn login_with_disabled_triggers_is_refused() {
    let place = Place::new().await;
    place.fill(&place.dsn(), 2).await;
    let set = "set session_replication_role = replica";
    place.sql(&format!("alter role {} {set}", place.name)).await;
    let text = place.unfit().await;
    assert!(text.contains("alter role … reset session_replication_role"), "{text}");
    assert_eq!(Reader::new(&place.dsn(), 1).frontier().await.expect("reads go on"), 2);
}
