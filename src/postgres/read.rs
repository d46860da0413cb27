//! Reads for the API node: a small, bounded pool, one short statement each.
//!
//! Invariant: every answer is one prefix of the chain. What one call answers is of one snapshot,
//! and no link above that snapshot's frontier is ever shown. Nothing here writes.

use std::future::Future;
use std::time::Duration;

use pghc_api::chain::{Head, Link, LinkHash};
use pghc_api::id::{ClusterId, NodeName, WriteId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::apply::{head_from, unsigned};
use super::column::{Bytes32, Hex, JsonText, Timestamp, get};
use super::connect::{Dsn, Role, STATEMENT_MAX};
use super::evidence::Evidence;
use super::pool::Pool;
use super::preflight::{self, Finding};
pub use super::read_error::ReadError;
use super::recompute::{recompute, recompute_hash};

/// Stored payload bytes with which a page ends early.
pub const PAGE_BYTES_MAX: i64 = 8 << 20;

/// Links in id order and the frontier of the same snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Ascending, dense. The page reached the frontier only if the last one is at it: a page also
    /// ends early when its payloads are large.
    pub links: Vec<Link>,
    /// Newest applied id; 0 while nothing is.
    pub frontier: u64,
}

/// The applier, as one look at the frontier shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Newest epoch; 0 while no node has ever applied.
    pub epoch: u64,
    /// Newest applied id.
    pub applied_id: u64,
    /// Node of that epoch.
    pub applier: Option<String>,
    /// When it was renewed, by the database's clock in microseconds: only to be compared for
    /// equality with another look. Two equal looks a lease apart mean that the applier is gone.
    pub renewed_at: i64,
}

/// A pool of reading sessions. Cheap to clone; connects when first used.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: Pool,
    /// Whose chain the links that are read must follow; `None`: they are not recomputed.
    cluster: Option<ClusterId>,
}

impl Reader {
    /// A pool of at most `connections` (at least 1).
    #[must_use]
    pub fn new(dsn: &Dsn, connections: usize) -> Self {
        Self { pool: Pool::new(dsn, Role::Reader, connections), cluster: None }
    }

    /// Has every link that is read recomputed from the one before it, as a link of `cluster`'s chain.
    #[must_use]
    pub fn recomputing(self, cluster: &ClusterId) -> Self {
        Self { cluster: Some(cluster.clone()), ..self }
    }

    /// As [`Self::new`], with the rights of a login that may only verify.
    #[must_use]
    pub fn auditing(dsn: &Dsn, connections: usize) -> Self {
        Self { pool: Pool::new(dsn, Role::Auditor, connections), cluster: None }
    }

    /// Link `id`, `None` above the frontier, and the frontier.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn link(&self, id: WriteId) -> Result<(Option<Link>, u64), ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/link.sql"), &[&id.as_i64()]).await?;
        let page = page_from(&rows)?;
        let due = id.get() <= page.frontier;
        dense(id.get(), page.links.iter().map(|link| link.id), usize::from(due))?;
        self.recompute(&rows, &page)?;
        Ok((page.links.into_iter().next(), page.frontier))
    }

    /// Up to `limit` links above `after`, ascending. Not empty while `after` is below the frontier
    /// and `limit` is not 0.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn page(&self, after: u64, limit: usize) -> Result<Page, ReadError> {
        let first = i64::try_from(after).unwrap_or(i64::MAX);
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = include_str!("../../sql/queries/page.sql");
        let rows = self.rows(sql, &[&first, &most, &PAGE_BYTES_MAX]).await?;
        let page = page_from(&rows)?;
        let due = usize::from(limit > 0 && after < page.frontier);
        dense(after.saturating_add(1), page.links.iter().map(|link| link.id), due)?;
        self.recompute(&rows, &page)?;
        Ok(page)
    }

    /// The newest `count` links, newest first, and the frontier.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn recent(
        &self,
        count: usize,
    ) -> Result<(Vec<(WriteId, LinkHash, NodeName)>, u64), ReadError> {
        let most = i64::try_from(count).unwrap_or(i64::MAX);
        let rows = self.rows(include_str!("../../sql/queries/recent.sql"), &[&most]).await?;
        let frontier = frontier_of(&rows)?;
        let mut links = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(id) = id(row)? {
                let (own, node) = (hash(row, id, 2)?, node(row, id, 3)?);
                if self.cluster.is_some() {
                    let before: Option<Hex> = row.try_get(4).map_err(|_| damaged(id, "hash"))?;
                    recompute_hash(id, &node, before.map(|Hex(hash)| hash), own)?;
                }
                links.push((id, own, node));
            }
        }
        // Newest first: a missing one is found where the next one stands in its place.
        let due = frontier.min(count as u64);
        let mut ids = links.iter().map(|(id, _, _)| id.get());
        if let Some(id) = (0..due).map(|at| frontier - at).find(|id| ids.next() != Some(*id)) {
            return Err(ReadError::Missing { id });
        }
        Ok((links, frontier))
    }

    /// The newest link, `None` while the chain is empty, and the frontier: its id.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn newest(&self) -> Result<(Option<Link>, u64), ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/newest.sql"), &[]).await?;
        let page = page_from(&rows)?;
        let due = usize::from(page.frontier > 0);
        dense(page.frontier, page.links.iter().map(|link| link.id), due)?;
        self.recompute(&rows, &page)?;
        Ok((page.links.into_iter().next(), page.frontier))
    }

    /// Recomputes the links of `page` from the chain values of the link before them, if that is to be done.
    fn recompute(&self, rows: &[Row], page: &Page) -> Result<(), ReadError> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| !page.links.is_empty()) else {
            return Ok(());
        };
        let row = rows.first().ok_or_else(no_frontier)?;
        recompute(cluster, before_from(row)?, &page.links)
    }

    /// Why the zone is fenced; `None` while it is not.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn evidence(&self) -> Result<Option<Evidence>, ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/evidence.sql"), &[]).await?;
        Ok(rows.first().map(Evidence::from_row).transpose()?)
    }

    /// The zone's head; `None` while the chain is empty.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn head(&self) -> Result<Option<Head>, ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/head.sql"), &[]).await?;
        let row = rows.first().ok_or_else(no_frontier)?;
        Ok(head_from(row, 0)?)
    }

    /// Newest applied id, 0 while nothing is applied.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn frontier(&self) -> Result<u64, ReadError> {
        Ok(self.lease().await?.applied_id)
    }

    /// Returns the applier and the frontier.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn lease(&self) -> Result<Lease, ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/lease.sql"), &[]).await?;
        let row = rows.first().ok_or_else(no_frontier)?;
        Ok(Lease {
            epoch: unsigned(get(row, 0, "pghc.frontier.epoch")?),
            applied_id: unsigned(get(row, 1, "pghc.frontier.applied_id")?),
            applier: get(row, 2, "pghc.frontier.applier")?,
            renewed_at: get(row, 3, "pghc.frontier.renewed_at")?,
        })
    }

    /// Returns the findings about the schema, fatal or not; see [`super::preflight()`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn findings(&self) -> Result<Vec<Finding>, ReadError> {
        let rows = self.rows(include_str!("../../sql/queries/schema.sql"), &[]).await?;
        Ok(preflight::compare_rows(&rows))
    }

    /// Runs a query, once more when its pooled connection turns out to be dead: reads may repeat.
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ReadError> {
        let mut attempts = 0;
        loop {
            let mut leased = self.pool.get().await?;
            let session = leased.session();
            attempts += 1;
            let query = async {
                let statement = session.prepare(sql).await?;
                session.client.query(&statement, parameters).await
            };
            match answered(query).await {
                Err(ReadError::Unavailable(_)) if session.client.is_closed() && attempts == 1 => {
                    // The other sessions are of the same server and as dead.
                    self.pool.clear();
                }
                result => return result,
            }
        }
    }
}

async fn answered<T>(
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ReadError> {
    let limit = STATEMENT_MAX + Duration::from_secs(5);
    match tokio::time::timeout(limit, query).await {
        Ok(result) => result.map_err(ReadError::sort),
        Err(_) => Err(ReadError::Unavailable(None)),
    }
}

/// Refuses links that are not `first`, the one after it, and so on, or that are fewer than `least`. A
/// link that was applied and is not found is damage, never an answer.
fn dense(first: u64, links: impl Iterator<Item = WriteId>, least: usize) -> Result<(), ReadError> {
    let mut due = first;
    for id in links {
        if id.get() != due {
            return Err(ReadError::Missing { id: due });
        }
        due += 1;
    }
    let is_short = usize::try_from(due - first).unwrap_or(usize::MAX) < least;
    if is_short { Err(ReadError::Missing { id: due }) } else { Ok(()) }
}

fn no_frontier() -> ReadError {
    ReadError::Damaged { id: 0, column: "frontier" }
}

/// The frontier, which every row begins with.
fn frontier_of(rows: &[Row]) -> Result<u64, ReadError> {
    let row = rows.first().ok_or_else(no_frontier)?;
    Ok(unsigned(get(row, 0, "pghc.frontier.applied_id")?))
}

/// Rows of (frontier, link columns); a null link id means that there is no link.
fn page_from(rows: &[Row]) -> Result<Page, ReadError> {
    let links = rows.iter().filter_map(|row| link_from(row).transpose());
    Ok(Page { links: links.collect::<Result<_, _>>()?, frontier: frontier_of(rows)? })
}

fn link_from(row: &Row) -> Result<Option<Link>, ReadError> {
    let Some(id) = id(row)? else { return Ok(None) };
    let Bytes32(digest) = row.try_get(4).map_err(|_| damaged(id, "digest"))?;
    let Timestamp(written_at) = row.try_get(5).map_err(|_| damaged(id, "written_at"))?;
    let payload: Option<JsonText<'_>> = row.try_get(6).map_err(|_| damaged(id, "payload"))?;
    Ok(Some(Link {
        id,
        node: node(row, id, 2)?,
        hash: hash(row, id, 3)?,
        digest,
        written_at,
        payload: payload.map(|JsonText(text)| text.into()),
    }))
}

/// The chain values of the link before those that are read; `None` without one.
fn before_from(row: &Row) -> Result<Option<Head>, ReadError> {
    let id: Option<i64> = get(row, 7, "pghc.chain.id")?;
    match id.and_then(|id| WriteId::try_from(unsigned(id)).ok()) {
        None => Ok(None),
        Some(id) => {
            let Bytes32(digest) = row.try_get(9).map_err(|_| damaged(id, "digest"))?;
            let Timestamp(written_at) = row.try_get(10).map_err(|_| damaged(id, "written_at"))?;
            Ok(Some(Head { id, hash: hash(row, id, 8)?, digest, written_at }))
        }
    }
}

fn damaged(id: WriteId, column: &'static str) -> ReadError {
    ReadError::Damaged { id: id.as_i64(), column }
}

/// The link's id, behind the frontier.
fn id(row: &Row) -> Result<Option<WriteId>, ReadError> {
    let Some(id) = get::<Option<i64>>(row, 1, "pghc.chain.id")? else { return Ok(None) };
    let known = WriteId::try_from(unsigned(id));
    known.map(Some).map_err(|_| ReadError::Damaged { id, column: "id" })
}

fn hash(row: &Row, id: WriteId, column: usize) -> Result<LinkHash, ReadError> {
    let Hex(hash) = row.try_get(column).map_err(|_| damaged(id, "hash"))?;
    Ok(hash)
}

fn node(row: &Row, id: WriteId, column: usize) -> Result<NodeName, ReadError> {
    let text: &str = row.try_get(column).map_err(|_| damaged(id, "node_id"))?;
    text.parse().map_err(|_| damaged(id, "node_id"))
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;

    use super::{ReadError, dense};

    #[test]
    fn missing_link_is_damage() {
        let links = |ids: &[u64]| {
            let ids: Vec<WriteId> = ids.iter().map(|id| WriteId::try_from(*id).unwrap()).collect();
            ids.into_iter()
        };
        assert!(dense(5, links(&[5, 6, 7]), 3).is_ok());
        assert!(dense(5, links(&[]), 0).is_ok());
        for (found, missing) in [(&[][..], 5), (&[6], 5), (&[5, 7], 6), (&[5, 6], 7), (&[5, 5], 6)]
        {
            let refused = dense(5, links(found), 3);
            assert!(
                matches!(refused, Err(ReadError::Missing { id }) if id == missing),
                "{found:?}"
            );
        }
    }
}
