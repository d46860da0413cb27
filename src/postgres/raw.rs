//! The chain as it stands, for the verifier: column values as they are, malformed ones too.
//!
//! Invariant: every row between two ids is seen, in id order, in constant memory, and no snapshot
//! is held for longer than a piece takes. It judges nothing.

use futures::stream::{Stream, StreamExt as _, TryStreamExt as _};
use pghc_api::time::Micros;
use pghc_api::verify;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::column::{AnyBytes, Timestamp};
use super::connect::{ConnectError, Dsn, Role};
use super::read::ReadError;
use crate::task::Tasks;

/// Links read under one snapshot.
const PIECE_LINKS: i64 = 20_000;

/// One row of `pghc.chain`. `None` is SQL null; text comes as bytes, since a damaged database may
/// hold what is no UTF-8.
#[derive(Debug)]
pub struct RawLink(Row);

impl RawLink {
    /// The id.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.0.get(0)
    }

    /// `node_id` as it is.
    #[must_use]
    pub fn node(&self) -> Option<&[u8]> {
        bytes(&self.0, 1)
    }

    /// `hash` as it is, usually 32 lower-case hex digits.
    #[must_use]
    pub fn hash(&self) -> Option<&[u8]> {
        bytes(&self.0, 2)
    }

    /// `digest` as it is, usually 32 bytes.
    #[must_use]
    pub fn digest(&self) -> Option<&[u8]> {
        bytes(&self.0, 3)
    }

    /// `written_at`; infinities are the ends of the range.
    #[must_use]
    pub fn written_at(&self) -> Option<Micros> {
        time(&self.0, 4)
    }

    /// `payload`'s bytes.
    #[must_use]
    pub fn payload(&self) -> Option<&[u8]> {
        bytes(&self.0, 5)
    }

    /// The row as the verifier takes it. Bytes that are no text become words that no column of a
    /// sound link holds.
    #[must_use]
    pub fn to_verify(&self) -> verify::RawLink<'_> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or("bytes that are no text");
        verify::RawLink {
            id: self.id(),
            node: self.node().map(text),
            hash: self.hash().map(text),
            digest: self.digest().map(verify::RawDigest::Bytes),
            written_at: self.written_at().map(|time| verify::RawTime::Micros(time.0)),
            payload: self.payload(),
            token: None,
        }
    }
}

/// What a database says about its chain, all of one snapshot. `None` is SQL null or a missing row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawHead {
    /// The cluster's UUID.
    pub cluster: Option<String>,
    /// The zone's name.
    pub zone: Option<String>,
    /// The frontier's id.
    pub applied_id: Option<i64>,
    /// The frontier's hash.
    pub hash: Option<String>,
    /// The frontier's digest.
    pub digest: Option<Vec<u8>>,
    /// The frontier's commit time.
    pub written_at: Option<Micros>,
    /// Smallest id there is, wherever the chain should begin.
    pub first_id: Option<i64>,
    /// Largest id there is, wherever the frontier says that the chain ends.
    pub last_id: Option<i64>,
}

/// A verifier's session.
#[derive(Debug)]
pub struct RawChain {
    client: Client,
}

impl RawChain {
    /// Connects as the auditor.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(dsn: &Dsn, tasks: &Tasks) -> Result<Self, ConnectError> {
        Self::connect_as(dsn, "chain-verify", tasks).await
    }

    /// As [`RawChain::connect`], under another name in `pg_stat_activity`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect_as(dsn: &Dsn, name: &str, tasks: &Tasks) -> Result<Self, ConnectError> {
        Ok(Self { client: dsn.connect(Role::Auditor, name, tasks).await? })
    }

    /// Whose chain this is, where it begins and ends, and what the frontier claims.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn head(&self) -> Result<RawHead, ReadError> {
        let sql = include_str!("../../sql/queries/raw_extent.sql");
        let row = self.client.query_one(sql, &[]).await.map_err(ReadError::sort)?;
        Ok(RawHead {
            cluster: row.get(0),
            zone: row.get(1),
            applied_id: row.get(2),
            hash: row.get(3),
            digest: row.get(4),
            written_at: time(&row, 5),
            first_id: row.get(6),
            last_id: row.get(7),
        })
    }

    /// Links `from` to `to`, both included, in id order, whatever is there. Ends after the first
    /// error; what came before it stands.
    pub fn links(
        &self,
        from: i64,
        to: i64,
    ) -> impl Stream<Item = Result<RawLink, ReadError>> + Send + '_ {
        // One piece after another; within a piece rows are taken off the connection one by one, so
        // a slow reader slows the server down and does not fill our memory.
        let pieces = futures::stream::try_unfold(Some(from.saturating_sub(1)), move |after| {
            self.piece(after, to)
        });
        pieces.try_flatten()
    }

    /// The piece above `after`, and where the next one starts; `None` behind the last.
    async fn piece(
        &self,
        after: Option<i64>,
        to: i64,
    ) -> Result<Option<(impl Stream<Item = Result<RawLink, ReadError>>, Option<i64>)>, ReadError>
    {
        let Some(after) = after else { return Ok(None) };
        let bound = include_str!("../../sql/queries/raw_piece_end.sql");
        let ends: [&(dyn ToSql + Sync); 3] = [&after, &to, &PIECE_LINKS];
        let row = self.client.query_one(bound, &ends).await.map_err(ReadError::sort)?;
        let Some(last) = row.get::<_, Option<i64>>(0) else { return Ok(None) };
        let sql = include_str!("../../sql/queries/raw_links.sql");
        let parameters: [&(dyn ToSql + Sync); 2] = [&after, &last];
        let rows = self.client.query_raw(sql, parameters).await.map_err(ReadError::sort)?;
        let links = rows.map(|row| row.map(RawLink).map_err(ReadError::sort));
        Ok(Some((links, (last < to).then_some(last))))
    }
}

fn bytes(row: &Row, column: usize) -> Option<&[u8]> {
    row.try_get::<_, Option<AnyBytes<'_>>>(column).ok().flatten().map(|AnyBytes(bytes)| bytes)
}

fn time(row: &Row, column: usize) -> Option<Micros> {
    row.try_get::<_, Option<Timestamp>>(column).ok().flatten().map(|Timestamp(micros)| micros)
}
