//! What must be true of a database before its zone applies anything to it.
//!
//! All findings are reported together. Nothing here writes.

use std::collections::BTreeSet;
use std::fmt;

use pghc_api::id::{ClusterId, ZoneName};
use tokio_postgres::{Client, Row};

use super::connect::{Dsn, Role};
use super::migrate::MigrateError;
use crate::sabotage::{self, Bug};
use crate::task::Tasks;

/// Oldest PostgreSQL that will do, as `server_version_num`.
const VERSION_MIN: i32 = 140_000;

/// What `sql/queries/schema.sql` must answer.
const SCHEMA: &str = include_str!("../../sql/schema.txt");

/// Something about a database that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The server is older than 14.
    TooOld(i32),
    /// The setting would lose or mix up what was committed.
    Unsafe(&'static str),
    /// The database's encoding is not UTF8, so payloads would not be kept byte for byte.
    Encoding(String),
    /// The schema lacks this line of `sql/schema.txt`.
    Missing(String),
    /// The schema has this, which is not ours.
    Foreign(String),
    /// Disk errors would go unnoticed; not fatal.
    NoChecksums,
}

impl Finding {
    /// Whether the zone must not apply because of it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        *self != Self::NoChecksums
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld(version) => {
                write!(f, "PostgreSQL {} is too old, want 14 or newer", version / 10_000)
            }
            Self::Unsafe(setting) => write!(f, "{setting} is off and must be on"),
            Self::Encoding(encoding) => write!(f, "the encoding is {encoding}, want UTF8"),
            Self::Missing(line) => write!(f, "the schema lacks: {line}"),
            Self::Foreign(line) => write!(f, "the schema has what is not ours: {line}"),
            Self::NoChecksums => write!(f, "data checksums are off (initdb -k)"),
        }
    }
}

/// The first words about a server.
pub(super) struct Server {
    pub(super) findings: Vec<Finding>,
    pub(super) is_replica: bool,
    pub(super) has_history: bool,
}

/// Looks at the server, before anything of ours is in it.
pub(super) async fn server(client: &Client) -> Result<Server, tokio_postgres::Error> {
    let row = client.query_one(include_str!("../../sql/queries/server.sql"), &[]).await?;
    Ok(Server { findings: server_findings(&row), is_replica: row.get(1), has_history: row.get(6) })
}

fn server_findings(row: &Row) -> Vec<Finding> {
    let version: i32 = row.get(0);
    let encoding: String = row.get(4);
    let mut findings = Vec::new();
    if version < VERSION_MIN {
        findings.push(Finding::TooOld(version));
    }
    if !row.get::<_, bool>(2) {
        findings.push(Finding::Unsafe("fsync"));
    }
    if !row.get::<_, bool>(3) {
        findings.push(Finding::Unsafe("full_page_writes"));
    }
    if encoding != "UTF8" {
        findings.push(Finding::Encoding(encoding));
    }
    if !row.get::<_, bool>(5) {
        findings.push(Finding::NoChecksums);
    }
    findings
}

/// Compares the schema with the one that the migrations make.
pub(super) async fn schema(client: &Client) -> Result<Vec<Finding>, tokio_postgres::Error> {
    if sabotage::is(Bug::NoEpoch) {
        return Ok(Vec::new());
    }
    let rows = client.query(include_str!("../../sql/queries/schema.sql"), &[]).await?;
    let is: BTreeSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    let due: BTreeSet<&str> = SCHEMA.lines().collect();
    let missing = due.difference(&is).map(|line| Finding::Missing((*line).to_owned()));
    let foreign = is.difference(&due).map(|line| Finding::Foreign((*line).to_owned()));
    Ok(missing.chain(foreign).collect())
}

/// Refuses a database that belongs to another cluster or zone. `Ok(false)`: it belongs to nobody.
pub(super) async fn owner(
    client: &Client,
    cluster: &ClusterId,
    zone: &ZoneName,
) -> Result<bool, MigrateError> {
    let rows = client.query(include_str!("../../sql/queries/owner.sql"), &[]).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let (found_cluster, found_zone): (String, String) = (row.get(0), row.get(1));
    if found_cluster == cluster.as_str() && found_zone == zone.as_str() {
        return Ok(true);
    }
    Err(MigrateError::Foreign {
        cluster: cluster.to_string(),
        zone: zone.to_string(),
        found_cluster,
        found_zone,
    })
}

/// Looks whether a migrated database is fit to be applied to by this cluster's zone. Answers the
/// findings that are not fatal.
///
/// # Errors
/// [`MigrateError::Unfit`] lists everything that is wrong; the others as they say.
pub async fn preflight(
    dsn: &Dsn,
    cluster: &ClusterId,
    zone: &ZoneName,
    tasks: &Tasks,
) -> Result<Vec<Finding>, MigrateError> {
    let client = dsn.connect(Role::Login, "preflight", tasks).await?;
    let server = server(&client).await?;
    if server.is_replica {
        return Err(MigrateError::Replica);
    }
    let mut findings = server.findings;
    if server.has_history {
        owner(&client, cluster, zone).await?;
    }
    findings.extend(schema(&client).await?);
    sort(findings)
}

/// Separates what is fatal from what is not.
pub(super) fn sort(findings: Vec<Finding>) -> Result<Vec<Finding>, MigrateError> {
    if findings.iter().any(Finding::is_fatal) {
        return Err(MigrateError::Unfit(findings));
    }
    Ok(findings)
}
