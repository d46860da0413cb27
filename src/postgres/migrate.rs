//! Bringing a zone's database to the schema of this binary, forward only.
//!
//! Invariant: one migrates at a time (an advisory lock), everything of ours belongs to
//! `pghc_owner`, and a database of another cluster or zone is not touched.

use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use refinery::{Migration, Runner};
use tokio_postgres::{Client, Row};

use super::column::{WrongColumn, get};
use super::connect::{ConnectError, Dsn, Role, is_passing};
use super::preflight::{self, Finding};
use super::remedy::{self, REPLACED, Refusal};
use crate::failpoint::{self, Point};
use crate::sabotage::{self, Bug};
use crate::task::Tasks;

/// Longest time to wait for another node that migrates.
const TURN_MAX: Duration = Duration::from_secs(60);

/// Attempts at creating the roles, which another database's migration may be creating too.
const ROLE_ATTEMPTS: usize = 5;

const HISTORY: &str = "pghc.refinery_schema_history";

/// Every file of `sql/migrations`, in order.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__chain", include_str!("../../sql/migrations/V1__chain.sql")),
    ("V2__apply", include_str!("../../sql/migrations/V2__apply.sql")),
    ("V3__verify", include_str!("../../sql/migrations/V3__verify.sql")),
];

/// Why a database is not ready for its zone. Sorted by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// As [`ConnectError`] says.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Try again later: the connection was lost, or another node still migrates. Whatever was
    /// finished stays; the rest goes on next time.
    #[error("the database could not be prepared now; trying again is safe")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Start the server again: its files were replaced under it.
    #[error("{REPLACED}: {0}")]
    Replaced(String),
    /// Wait or connect elsewhere: the server is a replica, or still recovering.
    #[error(
        "the server is a replica or in recovery; nothing can be applied to it until it is promoted"
    )]
    Replica,
    /// Correct the settings: the database is another's. Nothing was changed.
    #[error(
        "this database belongs to zone {found_zone} of cluster {found_cluster}, not to zone {zone} \
         of cluster {cluster}; nothing was changed: point this node at its own database"
    )]
    Foreign {
        /// Our cluster.
        cluster: String,
        /// Our zone.
        zone: String,
        /// The cluster that has claimed it.
        found_cluster: String,
        /// The zone that has claimed it.
        found_zone: String,
    },
    /// A person must act on each finding; nothing will be applied before.
    #[error("the database is not fit: {}", list(.0))]
    Unfit(Vec<Finding>),
    /// Use the newer binary, or find out who changed a migration. Nothing was changed.
    #[error(
        "the database's migrations are not this binary's: {0}; use the binary that made them, or a newer one"
    )]
    History(String),
    /// A person must act, as the message says: PostgreSQL refuses the migration.
    #[error("PostgreSQL refuses to migrate: {message}")]
    Refused {
        /// The server's message and the way out.
        message: String,
        /// What the driver says.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) if remedy::is_replaced(db) => Self::Replaced(db.message().to_owned()),
            Some(db) if !is_passing(db.code()) => {
                Self::Refused { message: Refusal::of(db).to_string(), source: None }
            }
            _ => Self::Unavailable(error.into()),
        }
    }
}

impl From<WrongColumn> for MigrateError {
    fn from(wrong: WrongColumn) -> Self {
        Self::Unfit(vec![Finding::Column(wrong)])
    }
}

/// Most findings, and most characters of each, that one message tells; the log has them all.
const TOLD_MAX: usize = 3;
const TOLD_CHARS_MAX: usize = 200;

fn list(findings: &[Finding]) -> String {
    let told = findings.iter().take(TOLD_MAX).map(|finding| {
        let text = finding.to_string();
        match text.char_indices().nth(TOLD_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    });
    let text = told.collect::<Vec<_>>().join("; ");
    match findings.len().saturating_sub(TOLD_MAX) {
        0 => text,
        more => format!("{text}; and {more} more, which this node's log tells"),
    }
}

/// Brings the database to this binary's schema and claims it for a cluster and zone, then looks
/// whether it is fit. Any number of nodes may do so at the same time, at every start. A database
/// that is up to date is only looked at, so a login without the owner's rights will do.
///
/// Answers the findings that are not fatal.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate(
    dsn: &Dsn,
    cluster: &ClusterId,
    zone: &ZoneName,
    tasks: &Tasks,
) -> Result<Vec<Finding>, MigrateError> {
    let mut client = dsn.connect(Role::Login, "migrate", tasks).await?;
    let server = preflight::server(&client).await?;
    if server.is_replica {
        return Err(MigrateError::Replica);
    }
    let mut findings = preflight::sort(server.findings)?;
    take_turn(&client).await?;
    failpoint::pass(Point::MigrateBegun);
    let has_history = preflight::server(&client).await?.has_history;
    let is_claimed = has_history
        && match preflight::owner(&client, cluster, zone).await {
            // The history is made before the first migration: a crash in between leaves it alone.
            Err(MigrateError::Refused { .. }) if applied(&client).await?.is_empty() => false,
            claimed => claimed?,
        };
    let is_current = has_history && check_history(&applied(&client).await?)?;
    if !is_current {
        run(&mut client).await?;
    }
    if !is_claimed {
        failpoint::pass(Point::MigrateUnclaimed);
        claim(&client, cluster, zone).await?;
        failpoint::pass(Point::MigrateClaimed);
    }
    // The session ends here and its lock with it.
    findings.extend(preflight::sort(preflight::schema(&client).await?)?);
    Ok(findings)
}

async fn take_turn(client: &Client) -> Result<(), MigrateError> {
    let lock_max = format!("set lock_timeout = {}", TURN_MAX.as_millis());
    client.batch_execute(&lock_max).await?;
    client.batch_execute(include_str!("../../sql/queries/migration_lock.sql")).await?;
    Ok(())
}

async fn run(client: &mut Client) -> Result<(), MigrateError> {
    create_roles(client).await?;
    failpoint::pass(Point::MigrateRoles);
    client.batch_execute(include_str!("../../sql/queries/before_migrations.sql")).await?;
    let migrations = migrations();
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name(HISTORY);
    match failpoint::within(Point::MigrateRunning, runner.run_async(client)).await {
        Ok(report) => {
            for migration in report.applied_migrations() {
                tracing::info!(%migration, "migrated the zone's database");
            }
        }
        Err(error) => return Err(sort(error)),
    }
    client.batch_execute(include_str!("../../sql/queries/after_migrations.sql")).await?;
    Ok(())
}

/// Sorts what the migration library says by what PostgreSQL said to it: a connection that was lost
/// in the middle is no refusal.
fn sort(error: refinery::Error) -> MigrateError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(driver) = cause.downcast_ref::<tokio_postgres::Error>() {
            if let Some(db) = driver.as_db_error().filter(|db| remedy::is_replaced(db)) {
                return MigrateError::Replaced(db.message().to_owned());
            }
            let Some(db) = driver.as_db_error().filter(|db| !is_passing(db.code())) else {
                return MigrateError::Unavailable(error.into());
            };
            message = format!("{message}: {}", Refusal::of(db));
            break;
        }
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    MigrateError::Refused { message, source: None }
}

async fn create_roles(client: &Client) -> Result<(), MigrateError> {
    let mut attempt = 1;
    loop {
        match client.batch_execute(include_str!("../../sql/roles.sql")).await {
            // Roles are of the whole server and no lock of ours reaches its other databases: two
            // grants at once end in "tuple concurrently updated".
            Err(error)
                if attempt < ROLE_ATTEMPTS
                    && error.code() == Some(&tokio_postgres::error::SqlState::INTERNAL_ERROR) =>
            {
                attempt += 1;
            }
            result => return Ok(result?),
        }
    }
}

async fn claim(client: &Client, cluster: &ClusterId, zone: &ZoneName) -> Result<(), MigrateError> {
    client.batch_execute("set role pghc_owner").await?;
    let sql = include_str!("../../sql/queries/claim.sql");
    client.execute(sql, &[&cluster.as_str(), &zone.as_str()]).await?;
    client.batch_execute("reset role").await?;
    Ok(())
}

fn migrations() -> Vec<Migration> {
    let read = |&(name, sql): &(&str, &str)| {
        let mut sql = sql.to_owned();
        if sabotage::is(Bug::NoEpoch) {
            sql = sql.replace("f.epoch = apply.epoch", "true").replace("f.backend_pid = ", "0 < ");
        }
        Migration::unapplied(name, &sql).expect("migrations are named V<n>__x")
    };
    MIGRATIONS.iter().map(read).collect()
}

/// A migration as the history has it: version, name, checksum.
type Applied = (i32, String, String);

async fn applied(client: &Client) -> Result<Vec<Applied>, MigrateError> {
    let rows = client.query(include_str!("../../sql/queries/history.sql"), &[]).await?;
    rows.iter().map(read_applied).collect()
}

/// A row of the history; one that the migration library could not read is refused here.
fn read_applied(row: &Row) -> Result<Applied, MigrateError> {
    let version = get(row, 0, "pghc.refinery_schema_history.version")?;
    let name = get(row, 1, "pghc.refinery_schema_history.name")?;
    let checksum: String = get(row, 2, "pghc.refinery_schema_history.checksum")?;
    let applied_on: String = get(row, 3, "pghc.refinery_schema_history.applied_on")?;
    if checksum.parse::<u64>().is_err() || applied_on.parse::<jiff::Timestamp>().is_err() {
        let text = format!("its row of V{version} holds no checksum or no time");
        return Err(MigrateError::History(text));
    }
    Ok((version, name, checksum))
}

/// Whether all our migrations are applied. Refuses a history that is not a beginning of ours.
fn check_history(applied: &[Applied]) -> Result<bool, MigrateError> {
    let ours = migrations();
    for (position, (version, name, checksum)) in applied.iter().enumerate() {
        let Some(migration) = ours.get(position) else {
            return Err(MigrateError::History(format!(
                "it has V{version}__{name}, which is newer"
            )));
        };
        let same = i64::from(*version) == i64::from(migration.version())
            && name == migration.name()
            && *checksum == migration.checksum().to_string();
        if !same {
            return Err(MigrateError::History(format!(
                "its V{version}__{name} is not our {migration}"
            )));
        }
    }
    Ok(applied.len() == ours.len())
}

#[cfg(test)]
mod tests {
    use super::{MIGRATIONS, check_history, migrations};

    #[test]
    fn every_migration_file_is_embedded_in_order() {
        let mut files: Vec<String> = std::fs::read_dir("sql/migrations")
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let embedded: Vec<String> = MIGRATIONS.iter().map(|(n, _)| format!("{n}.sql")).collect();
        assert_eq!(files, embedded);
    }

    #[test]
    fn a_history_is_a_beginning_of_ours_or_refused() {
        let mut history: Vec<_> = migrations()
            .iter()
            .map(|m| (m.version(), m.name().to_owned(), m.checksum().to_string()))
            .collect();
        assert!(check_history(&history).unwrap());
        assert!(!check_history(&history[..2]).unwrap());
        assert!(!check_history(&[]).unwrap());
        history.push((99, "later".into(), "1".into()));
        assert!(check_history(&history).is_err());
        history[0].2 = "1".into();
        assert!(check_history(&history[..1]).is_err());
    }
}
