//! Why a database is not ready for its zone.

use super::column::WrongColumn;
use super::connect_error::{ConnectError, is_passing};
use super::finding::Finding;
use super::remedy::{self, REPLACED, Refusal};

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
        /// Five characters of PostgreSQL's error code.
        sqlstate: String,
        /// The server's message and the way out.
        message: String,
        /// The driver's error.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) if remedy::is_replaced(db) => Self::Replaced(db.message().to_owned()),
            Some(db) if !is_passing(db.code()) => {
                let (sqlstate, message) =
                    (db.code().code().to_owned(), Refusal::of(db).to_string());
                Self::Refused { sqlstate, message, source: None }
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
    // The fatal ones first: they are why a zone stops.
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| !finding.is_fatal());
    let told = sorted.iter().take(TOLD_MAX).map(|finding| {
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
