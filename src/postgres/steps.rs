//! The migrations themselves: which there are, which a database has seen, and running the rest.
//!
//! Invariant: roles, schema, migrations and claim are one transaction, so a crash leaves all of them or
//! none. One session at a time: the first creates the schema, which makes the others wait for its
//! commit; later ones lock the table of the history. Neither can be done without the owner's rights, so
//! that no other login keeps a migration waiting.

use pghc_api::chain::payload_digest;
use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::mutation::{self, Mutant};
use tokio_postgres::{GenericClient, Row, Transaction};

use super::column::get;
use super::migrate_error::MigrateError;
use super::preflight;

/// Every file of `sql/migrations`, in order: name and text.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__chain", include_str!("../../sql/migrations/V1__chain.sql")),
    ("V2__apply", include_str!("../../sql/migrations/V2__apply.sql")),
    ("V3__verify", include_str!("../../sql/migrations/V3__verify.sql")),
];

/// A migration.
struct Migration {
    version: i32,
    name: &'static str,
    sql: String,
}

impl Migration {
    /// SHA-256 of its text, in hex.
    fn checksum(&self) -> String {
        payload_digest(self.sql.as_bytes()).to_string()
    }
}

fn migrations() -> Vec<Migration> {
    let read = |(version, &(name, sql)): (i32, &(&'static str, &str))| {
        let mut sql = sql.to_owned();
        if mutation::is_active(Mutant::NoEpoch) {
            sql = sql.replace("f.epoch = apply.epoch", "true").replace("f.backend_pid = ", "0 < ");
        }
        Migration { version, name, sql }
    };
    (1..).zip(MIGRATIONS).map(read).collect()
}

/// A migration as the history has it: version, name, checksum.
type Applied = (i32, String, String);

/// Whether the database has seen all our migrations.
///
/// # Errors
/// [`MigrateError::History`] when its history is not a beginning of ours.
pub(super) async fn is_current(client: &impl GenericClient) -> Result<bool, MigrateError> {
    Ok(missing(&applied(client).await?)?.is_empty())
}

async fn applied(client: &impl GenericClient) -> Result<Vec<Applied>, MigrateError> {
    let rows = client.query(include_str!("../../sql/queries/history.sql"), &[]).await?;
    let read = |row: &Row| {
        let version = get(row, 0, "pghc.migration.version")?;
        let name = get(row, 1, "pghc.migration.name")?;
        Ok((version, name, get(row, 2, "pghc.migration.checksum")?))
    };
    rows.iter().map(read).collect()
}

/// Our migrations that a history lacks. Refuses a history that is not a beginning of ours.
fn missing(applied: &[Applied]) -> Result<Vec<Migration>, MigrateError> {
    let mut ours = migrations().into_iter();
    for (version, name, checksum) in applied {
        let Some(migration) = ours.next() else {
            return Err(MigrateError::History(format!("it has {name}, which is newer")));
        };
        if (*version, name.as_str()) != (migration.version, migration.name)
            || *checksum != migration.checksum()
        {
            return Err(MigrateError::History(format!("its {name} is not our {}", migration.name)));
        }
    }
    Ok(ours.collect())
}

/// Brings the database to this binary's schema and claims it, in the transaction of the caller.
/// Whether anything was to be done is known only then: another session may have been faster. Before
/// that, sets the chain that is there aside under the schema name `aside`.
///
/// # Errors
/// See [`MigrateError`]; the transaction is of no use then.
pub(super) async fn take(
    transaction: &Transaction<'_>,
    aside: Option<&str>,
    claim: Option<(&ClusterId, &ZoneName)>,
) -> Result<(), MigrateError> {
    if let Some(aside) = aside {
        let name = "select set_config('pghc.aside', $1, true)";
        transaction.execute(name, &[&aside]).await?;
        transaction.batch_execute(include_str!("../../sql/queries/set_aside.sql")).await?;
    }
    transaction.batch_execute(include_str!("../../sql/roles.sql")).await?;
    failpoint::pass(Point::MigrateRoles);
    transaction.batch_execute(include_str!("../../sql/queries/before_migrations.sql")).await?;
    for migration in missing(&applied(transaction).await?)? {
        let run = transaction.batch_execute(&migration.sql);
        failpoint::within(Point::MigrateRunning, run).await?;
        let sql = include_str!("../../sql/queries/add_migration.sql");
        let checksum = migration.checksum();
        transaction.execute(sql, &[&migration.version, &migration.name, &checksum]).await?;
        tracing::info!(migration = migration.name, "migrating the zone's database");
    }
    failpoint::pass(Point::MigrateUnclaimed);
    if let Some((cluster, zone)) = claim
        && !preflight::owner(transaction, cluster, zone).await?
    {
        let sql = include_str!("../../sql/queries/claim.sql");
        transaction.execute(sql, &[&cluster.as_str(), &zone.as_str()]).await?;
    }
    transaction.batch_execute(include_str!("../../sql/queries/after_migrations.sql")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Applied, MIGRATIONS, migrations, missing};

    #[test]
    fn every_migration_file_is_embedded_in_order() {
        let mut files: Vec<String> = std::fs::read_dir("../../sql/migrations")
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let embedded: Vec<String> = MIGRATIONS.iter().map(|(n, _)| format!("{n}.sql")).collect();
        assert_eq!(files, embedded);
        for (position, name) in embedded.iter().enumerate() {
            assert!(name.starts_with(&format!("V{}__", position + 1)), "{name}");
        }
    }

    #[test]
    fn a_history_is_a_beginning_of_ours_or_refused() {
        let mut history: Vec<Applied> =
            migrations().iter().map(|m| (m.version, m.name.to_owned(), m.checksum())).collect();
        assert!(missing(&history).unwrap().is_empty());
        assert_eq!(missing(&history[..2]).unwrap().len(), 1);
        assert_eq!(missing(&[]).unwrap().len(), 3);
        history.push((99, "later".into(), "1".into()));
        assert!(missing(&history).is_err());
        history[0].2 = "1".into();
        assert!(missing(&history[..1]).is_err());
    }
}
