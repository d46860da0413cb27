//! Bringing a zone's database to the schema of this binary, forward only.
//!
//! Invariant: all of it happens in one transaction, one session at a time (`steps.rs`), everything of
//! ours belongs to `pghc_owner`, and a database of another cluster or zone is not touched.

use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use tokio_postgres::Client;

use super::connect::{Dsn, Role};
pub use super::migrate_error::MigrateError;
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::task::Tasks;

use super::preflight::{self, Finding};
use super::steps;

/// Longest time to wait for another node that migrates.
const TURN_MAX: Duration = Duration::from_secs(60);

/// Attempts at a transaction that another session's may be in the way of.
const ATTEMPTS: usize = 5;

/// SQLSTATEs of a transaction that met a concurrent one: its objects were created meanwhile,
/// or "tuple concurrently updated" of roles, which belong to the whole server, so that no lock of ours
/// reaches those who create them for another database.
const RACES: &[&str] = &["23505", "42P06", "42P07", "42710", "XX000"];

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
    failpoint::pass(Point::MigrateBegun);
    let is_ready = server.has_history
        && preflight::owner(&client, cluster, zone).await?
        && steps::is_current(&client).await?;
    if !is_ready {
        prepare(&mut client, None, Some((cluster, zone))).await?;
        failpoint::pass(Point::MigrateClaimed);
    }
    findings.extend(preflight::sort(preflight::schema(&client).await?)?);
    Ok(findings)
}

/// Brings the database to this binary's schema and claims it, in one transaction, again when it met
/// another session's. Before that, sets the chain that is there aside under the schema name `aside`.
///
/// # Errors
/// See [`MigrateError`]; nothing was changed then.
pub(super) async fn prepare(
    client: &mut Client,
    aside: Option<&str>,
    claim: Option<(&ClusterId, &ZoneName)>,
) -> Result<(), MigrateError> {
    let lock_max = format!("set lock_timeout = {}", TURN_MAX.as_millis());
    client.batch_execute(&lock_max).await?;
    let mut attempt = 1;
    loop {
        let transaction = client.transaction().await?;
        let done = match steps::take(&transaction, aside, claim).await {
            Ok(()) => transaction.commit().await.map_err(MigrateError::from),
            Err(error) => {
                // As dropping it would, but the session goes on.
                transaction.rollback().await?;
                Err(error)
            }
        };
        match done {
            Err(MigrateError::Refused { sqlstate, .. })
                if attempt < ATTEMPTS && RACES.contains(&sqlstate.as_str()) =>
            {
                attempt += 1;
            }
            done => return done,
        }
    }
}
