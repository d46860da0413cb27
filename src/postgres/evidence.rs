//! Evidence against a zone's chain, kept in its database: while it is there, no node
//! applies to that zone, whichever node restarts.

use std::fmt;

use pghc_api::id::NodeName;
use pghc_api::verify::{Violation, ViolationKind};
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::task::Tasks;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::column::{WrongColumn, get};
use super::connect::{ConnectError, Dsn, Role};
use super::read_error::ReadError;

/// Why a zone is fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// First bad id, 0 when it is not known.
    pub id: i64,
    /// Kind of the fault, in one word.
    pub what: String,
    /// The value that a sound chain has there.
    pub expected: String,
    /// The value that was there.
    pub found: String,
    /// Node that found it.
    pub node: String,
}

/// Effect of keeping evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The zone is fenced from then on, unless its chain was replaced after the finding: it ends
    /// below the bad id, or has the expected link there.
    Fence,
    /// Newer words for a zone that is fenced; nothing when its database was replaced meanwhile.
    Refine,
}

impl Evidence {
    pub(super) fn from_row(row: &Row) -> Result<Self, WrongColumn> {
        Ok(Self {
            id: get(row, 0, "pghc.evidence.id")?,
            what: get(row, 1, "pghc.evidence.what")?,
            expected: get(row, 2, "pghc.evidence.expected")?,
            found: get(row, 3, "pghc.evidence.found")?,
            node: get(row, 4, "pghc.evidence.node")?,
        })
    }

    /// Makes evidence of a violation that `node` found.
    #[must_use]
    pub fn of(violation: &Violation, node: &NodeName) -> Self {
        Self {
            id: violation.id,
            what: word(violation.kind),
            expected: violation.expected.clone(),
            found: violation.found.clone(),
            node: node.to_string(),
        }
    }

    /// Keeps it, and with it the row that it is about. Returns whether it was kept; see [`Keep`].
    ///
    /// # Errors
    /// See [`KeepError`]; nothing was kept then.
    pub async fn keep(&self, how: Keep, dsn: &Dsn, tasks: &Tasks) -> Result<bool, KeepError> {
        let client = dsn.connect(Role::Applier, "evidence", tasks).await?;
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.node, &self.id, &self.what, &self.expected, &self.found, &(how == Keep::Fence)];
        let sql = include_str!("../../sql/queries/add_evidence.sql");
        failpoint::pass(Point::EvidenceBefore);
        let kept = client.query_opt(sql, &parameters);
        let kept = failpoint::within(Point::EvidenceSent, kept).await.map_err(ReadError::sort)?;
        failpoint::pass(Point::EvidenceKept);
        Ok(kept.is_some())
    }
}

/// The stable name of a kind.
fn word(kind: ViolationKind) -> String {
    let json = serde_json::to_string(&kind).unwrap_or_default();
    json.trim_matches('"').to_owned()
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, what, expected, found, node } = self;
        write!(
            f,
            "the chain in this zone's database is not the one that was ordered: the first bad id \
             is {id} ({what}): expected {expected}, found {found}; found by {node}. Nothing is \
             applied here and nothing is served; `pghc zone reseed` sets this chain aside as \
             evidence and has the zone filled anew"
        )
    }
}

/// Why evidence was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is no session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database did not take it.
    #[error(transparent)]
    Refused(#[from] ReadError),
}
