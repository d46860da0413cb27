//! Changed columns: every statement of pghc answers or reports the column; none panics.

use futures::{StreamExt as _, TryStreamExt as _};
use pghc_api::id::WriteId;
use pghc_dev::deployment::Part;
use pghc_postgres::raw::RawChain;
use pghc_postgres::reseed::Operator;
use pghc_postgres::{Applier, Commit, Dsn, MigrateError, Reader, Role, listen};
use pghc_runtime::telemetry::describe;

use super::Place;
use crate::harness::{Site, wait_for};

/// Every call that reads a column, whatever it answers; how many of them say that a column is not as
/// pghc made it.
async fn all_calls(place: &Place, dsn: &Dsn) -> usize {
    let mut said = Vec::new();
    let mut note = |error: Option<String>| said.extend(error);
    note(place.migrate(dsn).await.err().map(|e| describe(&e)));
    let reader = Reader::new(dsn, 1);
    note(reader.link(WriteId::FIRST).await.err().map(|e| describe(&e)));
    note(reader.page(0, 10).await.err().map(|e| describe(&e)));
    note(reader.recent(3).await.err().map(|e| describe(&e)));
    note(reader.newest().await.err().map(|e| describe(&e)));
    note(reader.head().await.err().map(|e| describe(&e)));
    note(reader.lease().await.err().map(|e| describe(&e)));
    note(reader.evidence().await.err().map(|e| describe(&e)));
    match listen(dsn).await {
        Ok(mut listener) => {
            let heard = listener.next().await;
            note(heard.and_then(Result::err).map(|error| describe(&error)));
        }
        Err(error) => note(Some(describe(&error))),
    }
    let chain = RawChain::connect(dsn, &place.tasks).await.expect("the auditor connects");
    note(chain.head().await.err().map(|e| describe(&e)));
    note(chain.links(1, 10).try_collect::<Vec<_>>().await.err().map(|e| describe(&e)));
    match Applier::connect(dsn, Commit::OnDisk, &place.tasks).await {
        Ok(applier) => {
            let epoch =
                place.admin.query("select max(epoch)::bigint from pghc.frontier", &[]).await;
            let epoch = epoch.ok().and_then(|rows| rows[0].try_get::<_, Option<i64>>(0).ok()?);
            let expired = epoch.map(i64::cast_unsigned);
            note(
                applier
                    .acquire(&"api-1".parse().unwrap(), expired)
                    .await
                    .err()
                    .map(|e| describe(&e)),
            );
            note(applier.renew(1).await.err().map(|e| describe(&e)));
        }
        Err(error) => note(Some(describe(&error))),
    }
    let operator = Operator::connect(dsn, &place.tasks).await.expect("the operator connects");
    note(operator.standing().await.err().map(|e| describe(&e)));
    note(operator.identify().await.err().map(|e| describe(&e)));
    said.iter().filter(|text| text.contains("is not as pghc made it")).count()
}

#[tokio::test]
async fn no_changed_column_makes_a_call_panic() {
    let place = Place::new().await;
    let dsn = place.dsn();
    place.fill(&dsn, 3).await;
    place
        .sql(
            "set session_replication_role = replica; insert into pghc.evidence \
             (node, id, what, expected, found) values ('n', 1, 'w', 'e', 'f')",
        )
        .await;
    assert_eq!(all_calls(&place, &dsn).await, 0, "nothing is changed yet");
    let columns = "select attrelid::regclass::text, attname::text from pg_attribute \
                   where attrelid in (select oid from pg_class where relkind = 'r' \
                     and relnamespace = 'pghc'::regnamespace) and attnum > 0 and not attisdropped";
    let mut findings = 0;
    for row in place.admin.query(columns, &[]).await.unwrap() {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        let renamed = format!("alter table {table} rename column {column} to was");
        let kind = if column == "digest" { "point" } else { "bytea" };
        place.sql(&format!("{renamed}; alter table {table} add column {column} {kind}")).await;
        findings += all_calls(&place, &dsn).await;
        let back = format!(
            "alter table {table} drop column {column}; \
             alter table {table} rename column was to {column}"
        );
        place.sql(&back).await;
    }
    assert!(findings > 20, "only {findings} calls named the column");
}

#[tokio::test]
async fn a_zone_name_of_another_type_is_a_finding_in_words() {
    let place = Place::new().await;
    place.fill(&place.dsn(), 2).await;
    place.sql("alter table pghc.cluster alter zone type bytea using zone::bytea").await;
    let error = place.migrate(&place.dsn()).await.expect_err("it is not fit");
    assert!(matches!(&error, MigrateError::Unfit(_)), "{error:?}");
    let text = describe(&error);
    for words in ["pghc.cluster.zone is not as pghc made it", "bytea", "change it back"] {
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn a_node_halts_with_words_when_a_column_was_changed() {
    let site = Site::start(1).await;
    let (record, tasks) = (site.record(), pghc_runtime::task::Tasks::default());
    let zone = &record.zones[0];
    let dsn: Dsn = zone.dsn.parse().unwrap();
    let admin = dsn.connect(Role::Login, "test", &tasks).await.expect("it connects");
    let change = "alter table pghc.cluster alter zone type bytea using zone::bytea";
    admin.batch_execute(change).await.expect("the superuser may");
    site.kill(zone.name.as_str(), Part::Api(0)).await;
    let why = wait_for("a halt in words", async || site.status(0).await?.halted).await;
    assert!(why.contains("pghc.cluster.zone is not as pghc made it"), "{why}");
}
