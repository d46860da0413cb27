//! How the reads of a zone are planned while its tables are empty: a prepared statement keeps that plan.

use pghc_postgres::Role;
use tokio_postgres::SimpleQueryMessage;

use super::Database;

#[tokio::test(flavor = "multi_thread")]
async fn reads_planned_on_an_empty_chain_use_its_index() {
    let database = Database::migrated().await;
    let session = database.dsn.connect(Role::Reader, "plans", &database.tasks).await.unwrap();
    for (name, sql) in [
        ("link", include_str!("../../../sql/queries/link.sql")),
        ("page", include_str!("../../../sql/queries/page.sql")),
        ("newest", include_str!("../../../sql/queries/newest.sql")),
        ("recent", include_str!("../../../sql/queries/recent.sql")),
        ("face", include_str!("../../../sql/queries/face.sql")),
    ] {
        let sql = sql.replace("$1", "500").replace("$2", "10").replace("$3", "1000000");
        let rows = session.simple_query(&format!("explain {sql}")).await.unwrap();
        let lines = rows.iter().filter_map(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Vec<&str> = lines.collect();
        let plan = plan.join("\n");
        assert!(plan.contains("chain_pkey"), "{name}:\n{plan}");
        assert!(!plan.contains("Seq Scan on chain"), "{name}:\n{plan}");
    }
}
