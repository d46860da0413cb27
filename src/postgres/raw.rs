//! The chain as it stands, for the verifier: column values as they are, malformed ones too.
//!
//! Invariant: every row between two ids is seen, in id order, in constant memory, and no snapshot
//! is held for longer than a piece takes. It judges nothing.
//!
//! Links come by COPY, one message a row: nothing is allocated or copied for a row between the
//! socket's buffer and the verifier.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::{Buf as _, Bytes};
use futures::stream::{Stream, StreamExt as _, TryStreamExt as _};
use pghc_api::time::Micros;
use pghc_api::verify;
use pghc_runtime::task::Tasks;
use tokio_postgres::{Client, Row};

use super::column::{POSTGRES_EPOCH, Timestamp, get};
use super::connect::{ConnectError, Dsn, Role};
use super::read::ReadError;

/// Links read under one snapshot.
const PIECE_LINKS: i64 = 20_000;

/// Columns of a row.
const COLUMNS: u16 = 6;

/// Signature of binary COPY; flags and the length of an extension follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// One row of `pghc.chain`. `None` is SQL null; text comes as bytes, since a damaged database may
/// hold what is no UTF-8.
#[derive(Debug)]
pub struct RawLink {
    id: i64,
    /// The columns behind the id, each behind its length; checked to be there when it was made.
    rest: Bytes,
}

impl RawLink {
    /// The row in a message of a binary COPY, `None` in its header alone and at its end.
    ///
    /// # Errors
    /// [`NotARow`].
    fn read(mut message: Bytes) -> Result<Option<Self>, NotARow> {
        if message.starts_with(SIGNATURE) {
            let extension = message.get(SIGNATURE.len() + 4..).ok_or(NotARow)?;
            let (length, _) = extension.split_first_chunk::<4>().ok_or(NotARow)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| NotARow)?;
            let header = length.checked_add(SIGNATURE.len() + 8).ok_or(NotARow)?;
            message.get(header..).ok_or(NotARow)?;
            message.advance(header);
        }
        let Some((count, mut columns)) = message.split_first_chunk::<2>() else {
            return if message.is_empty() { Ok(None) } else { Err(NotARow) };
        };
        match u16::from_be_bytes(*count) {
            COLUMNS => {}
            u16::MAX if columns.is_empty() => return Ok(None),
            _ => return Err(NotARow),
        }
        let id = column(&mut columns)?.and_then(|id| id.try_into().ok()).ok_or(NotARow)?;
        let before = message.len() - columns.len();
        for _ in 1..COLUMNS {
            column(&mut columns)?;
        }
        if !columns.is_empty() {
            return Err(NotARow);
        }
        message.advance(before);
        Ok(Some(Self { id: i64::from_be_bytes(id), rest: message }))
    }

    /// Column `number`, counted from the one behind the id.
    fn column(&self, number: usize) -> Option<&[u8]> {
        self.columns().nth(number).flatten()
    }

    fn columns(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = &self.rest[..];
        std::iter::from_fn(move || column(&mut rest).ok())
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// `node_id` as it is.
    #[must_use]
    pub fn node(&self) -> Option<&[u8]> {
        self.column(0)
    }

    /// `hash` as it is, usually 32 lower-case hex digits.
    #[must_use]
    pub fn hash(&self) -> Option<&[u8]> {
        self.column(1)
    }

    /// `digest` as it is, usually 32 bytes.
    #[must_use]
    pub fn digest(&self) -> Option<&[u8]> {
        self.column(2)
    }

    /// `written_at`; infinities are the ends of the range.
    #[must_use]
    pub fn written_at(&self) -> Option<Micros> {
        micros(self.column(3))
    }

    /// `payload`'s bytes.
    #[must_use]
    pub fn payload(&self) -> Option<&[u8]> {
        self.column(4)
    }

    /// The row as the verifier takes it. Bytes that are no text become words that no column of a
    /// sound link holds.
    #[must_use]
    pub fn to_verify(&self) -> verify::RawLink<'_> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or("bytes that are no text");
        // One walk over the columns: this runs for every link.
        let mut columns = self.columns();
        let mut next = || columns.next().flatten();
        verify::RawLink {
            id: self.id,
            node: next().map(text),
            hash: next().map(text),
            digest: next().map(verify::RawDigest::Bytes),
            written_at: micros(next()).map(|time| verify::RawTime::Micros(time.0)),
            payload: next(),
            token: None,
        }
    }
}

/// A message of the server that holds no row as it was asked for: a column is of another type than
/// it was made with, or the id is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotARow;

/// Takes the next column off `rest`; `None` is SQL null.
fn column<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, NotARow> {
    let (length, behind) = rest.split_first_chunk::<4>().ok_or(NotARow)?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
        *rest = behind;
        return Ok(None);
    };
    let (column, behind) = behind.split_at_checked(length).ok_or(NotARow)?;
    *rest = behind;
    Ok(Some(column))
}

/// A timestamptz; `None` for null and what is none.
fn micros(column: Option<&[u8]>) -> Option<Micros> {
    let micros = i64::from_be_bytes(column?.try_into().ok()?);
    Some(Micros(micros.saturating_add(POSTGRES_EPOCH)))
}

/// A database's account of its chain, all of one snapshot. `None` is SQL null or a missing row.
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
    pub(super) client: Client,
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
        let client = dsn.connect(Role::Auditor, name, tasks).await?;
        // In the order of the primary key, whatever the planner believes of a table that has just grown:
        // else it sorts all that is left of the chain for every piece.
        let planned = client.batch_execute("set enable_sort = off").await;
        planned.map_err(|error| dsn.failure(error))?;
        Ok(Self { client })
    }

    /// Whose chain this is, where it begins and ends, and what the frontier claims.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn head(&self) -> Result<RawHead, ReadError> {
        let sql = include_str!("../../sql/queries/raw_extent.sql");
        let rows = self.client.query(sql, &[]).await.map_err(ReadError::sort)?;
        let row = rows.first().ok_or(ReadError::Damaged { id: 0, column: "frontier" })?;
        // Two frontiers are none.
        let is_one = rows.len() == 1;
        let applied_id: Option<i64> = get(row, 2, "pghc.frontier.applied_id")?;
        Ok(RawHead {
            cluster: get(row, 0, "pghc.cluster.cluster_id")?,
            zone: get(row, 1, "pghc.cluster.zone")?,
            applied_id: applied_id.filter(|_| is_one),
            hash: get(row, 3, "pghc.frontier.hash")?,
            digest: get(row, 4, "pghc.frontier.digest")?,
            written_at: time(row, 5),
            first_id: get(row, 6, "pghc.chain.id")?,
            last_id: get(row, 7, "pghc.chain.id")?,
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
        let last = Arc::new(AtomicI64::new(from.saturating_sub(1)));
        let pieces = futures::stream::try_unfold(None, move |before| {
            let last = Arc::clone(&last);
            async move {
                let after = last.load(Ordering::Relaxed);
                // A piece without a row was the end.
                if before == Some(after) || after >= to {
                    return Ok(None);
                }
                Ok::<_, ReadError>(Some((self.piece(after, to, last).await?, Some(after))))
            }
        });
        pieces.try_flatten()
    }

    /// The rows of the piece above `after`; `last` becomes the id of the newest one read.
    async fn piece(
        &self,
        after: i64,
        to: i64,
        last: Arc<AtomicI64>,
    ) -> Result<impl Stream<Item = Result<RawLink, ReadError>>, ReadError> {
        let mut sql = include_str!("../../sql/queries/raw_links.sql").to_owned();
        for (name, number) in [("$1", after), ("$2", to), ("$3", PIECE_LINKS)] {
            sql = sql.replace(name, &number.to_string());
        }
        let messages = self.client.copy_out(&sql).await.map_err(ReadError::sort)?;
        let link = move |message: Result<Bytes, tokio_postgres::Error>| {
            let link = RawLink::read(message.map_err(ReadError::sort)?).map_err(|NotARow| {
                let id = last.load(Ordering::Relaxed).saturating_add(1);
                ReadError::Damaged { id, column: "row" }
            })?;
            if let Some(link) = &link {
                last.store(link.id, Ordering::Relaxed);
            }
            Ok(link)
        };
        Ok(messages.filter_map(move |message| std::future::ready(link(message).transpose())))
    }
}

fn time(row: &Row, column: usize) -> Option<Micros> {
    row.try_get::<_, Option<Timestamp>>(column).ok().flatten().map(|Timestamp(micros)| micros)
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, Bytes, BytesMut};

    use super::{NotARow, RawLink, SIGNATURE};

    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

    fn row(before: &[u8], columns: &[Option<&[u8]>]) -> Bytes {
        let mut message = BytesMut::from(before);
        message.put_i16(i16::try_from(columns.len()).expect("few"));
        for column in columns {
            message.put_i32(column.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("few")));
            message.put_slice(column.unwrap_or_default());
        }
        message.freeze()
    }

    #[test]
    fn row_is_read_with_or_without_the_header() {
        let time = 1_i64.to_be_bytes();
        let id = 7_i64.to_be_bytes();
        let full = [Some(&id[..]), Some(b"n"), Some(b"h"), Some(b"d"), Some(&time), Some(b"{}")];
        for before in [&b""[..], HEADER] {
            let link = RawLink::read(row(before, &full)).expect("a row").expect("a row");
            let seen = link.to_verify();
            assert_eq!((link.id(), seen.node, seen.hash), (7, Some("n"), Some("h")));
            assert_eq!((link.digest(), link.payload()), (Some(&b"d"[..]), Some(&b"{}"[..])));
            assert_eq!(link.written_at().map(|at| at.0), Some(946_684_800_000_001));
            let nulls = [Some(&id[..]), None, None, None, None, None];
            let link = RawLink::read(row(before, &nulls)).expect("a row").expect("a row");
            assert_eq!((link.id(), link.node(), link.payload()), (7, None, None));
            assert!(link.written_at().is_none() && link.to_verify().digest.is_none());
        }
    }

    #[test]
    fn header_alone_is_no_row() {
        for message in [HEADER, b"", b"\xff\xff", &[HEADER, b"\xff\xff"].concat()] {
            assert!(matches!(RawLink::read(Bytes::copy_from_slice(message)), Ok(None)));
        }
    }

    #[test]
    fn a_row_of_another_form_is_an_error_however_it_is_cut() {
        let id = 7_i64.to_be_bytes();
        let short = [Some(&id[..4]), None, None, None, None, None];
        let no_id = [None; 6];
        for columns in [&short[..], &no_id, &[Some(&id[..])]] {
            assert_eq!(RawLink::read(row(HEADER, columns)).err(), Some(NotARow), "{columns:?}");
        }
        let whole = row(HEADER, &[Some(&id[..]), Some(b"n"), None, None, None, Some(b"{}")]);
        for end in 1..whole.len() {
            let is_header = end == HEADER.len();
            let cut = RawLink::read(whole.slice(..end));
            assert_eq!(cut.is_err(), !is_header, "cut after {end} bytes of {}", SIGNATURE.len());
        }
    }
}
