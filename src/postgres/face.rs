//! A zone's database in its own words, read by a node before it serves anything of it.

use pghc_api::chain::Digest;
use tokio_postgres::Row;

use super::apply::unsigned;
use super::column::Bytes32;
use super::evidence::Evidence;
use super::read::{ReadError, Reader};

/// The face of a database, all of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Face {
    /// The cluster that it belongs to; empty while it belongs to none.
    pub cluster: String,
    /// The zone that it belongs to.
    pub zone: String,
    /// The server's system identifier: equal on a primary and its replicas, different on any other.
    pub system: String,
    /// The frontier's id; 0 while nothing is applied.
    pub id: u64,
    /// The frontier's digest; `None` at id 0, and when it is none.
    pub digest: Option<Digest>,
    /// The digest of the link at the frontier, as far as there is one.
    pub link: Option<Digest>,
    /// Whether the server is a replica: it replays what its primary writes.
    pub is_replica: bool,
    /// The newest link above the frontier, where none may be.
    pub above: Option<u64>,
    /// Why the zone is fenced.
    pub evidence: Option<Evidence>,
}

impl Reader {
    /// The database's own account of itself.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn face(&self) -> Result<Face, ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/face.sql"), &[]).await?;
        let damaged = ReadError::Damaged { id: 0, column: "frontier" };
        let row = rows.first().ok_or(damaged)?;
        let text = |at| row.try_get::<_, Option<String>>(at).ok().flatten().unwrap_or_default();
        let digest = |at| row.try_get::<_, Option<Bytes32>>(at).ok().flatten().map(|it| it.0);
        Ok(Face {
            cluster: text(0),
            zone: text(1),
            system: text(2),
            id: row.try_get::<_, Option<i64>>(3).ok().flatten().map_or(0, unsigned),
            digest: digest(4),
            link: digest(5),
            is_replica: row.try_get::<_, Option<bool>>(12).ok().flatten().unwrap_or_default(),
            above: row.try_get::<_, Option<i64>>(11).ok().flatten().map(unsigned),
            evidence: evidence(row),
        })
    }
}

fn evidence(row: &Row) -> Option<Evidence> {
    let id = row.try_get::<_, Option<i64>>(6).ok().flatten()?;
    let text = |at| row.try_get::<_, Option<String>>(at).ok().flatten().unwrap_or_default();
    let (what, expected, found, node) = (text(7), text(8), text(9), text(10));
    Some(Evidence { id, what, expected, found, node })
}
