//! A zone's PostgreSQL as a source.
//!
//! The source is frozen by one query, under one snapshot, for the frontier and the first and last
//! row. Links never change, so piecewise reads afterwards equal one long snapshot, without holding
//! back vacuum during the verification.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use futures::stream::StreamExt as _;
use pghc_api::chain::Head;
use pghc_api::verify::{Violation, ViolationKind};
use pghc_postgres::raw::{RawChain, RawHead};
use pghc_postgres::shape::{self, Altered};
use pghc_postgres::{Dsn, ReadError as SqlError};
use pghc_runtime::task::Tasks;
use tokio::time::timeout;

use super::reading::{ReadError, Sink, Standing};

/// Longest silence of the database before it counts as unreadable.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Most rows read between two checks of the time limit.
const ROWS_AT_ONCE: usize = 512;

/// A zone's database.
#[derive(Debug)]
pub(crate) struct Database {
    chain: RawChain,
    /// Head at the last query.
    seen: RawHead,
    /// Altered tables whose links can still be read.
    altered: Vec<Altered>,
    /// Rows without an id.
    without_id: u64,
}

impl Database {
    /// Connects and asks how far the zone is.
    pub(crate) async fn open(dsn: &str, tasks: &Tasks) -> Result<(Self, Standing), ReadError> {
        let dsn: Dsn = dsn.parse().map_err(|error| unreadable(&error))?;
        let chain = RawChain::connect(&dsn, tasks).await.map_err(|error| unreadable(&error))?;
        let relations = answered(chain.shape()).await?;
        let altered = shape::altered(&relations);
        // An altered table may show this session other rows than it shows readers.
        if let Some(worst) = altered.first().filter(|altered| !altered.is_readable) {
            return Err(as_violation(worst).into());
        }
        let seen = look(&chain).await?;
        let standing = standing(&seen)?;
        let without_id = answered(chain.rows_without_id()).await?;
        Ok((Self { chain, seen, altered, without_id }, standing))
    }

    /// Queries the frontier again; the last result is the frozen end.
    pub(crate) async fn standing(&mut self) -> Result<Standing, ReadError> {
        self.seen = look(&self.chain).await?;
        standing(&self.seen)
    }

    /// Rows outside the range from link 1 to the frontier, and whether the frontier row names the
    /// link it points to. `head` is that link if it was checked.
    pub(crate) fn strays(&self, from: u64, head: Option<&Head>) -> Result<(), Violation> {
        if self.without_id > 0 {
            let found = format!("{} of them", self.without_id);
            let kind = ViolationKind::AlteredTable;
            return Err(Violation::new(0, kind, "no row without an id in pghc.chain", found));
        }
        let RawHead { first_id, last_id, applied_id, .. } = &self.seen;
        if let Some(first) = first_id.filter(|first| *first < 1 && from == 1) {
            let kind = ViolationKind::BadId;
            return Err(Violation::new(first, kind, "no row below link 1", "a row"));
        }
        let applied = applied_id.unwrap_or(0);
        if let Some(last) = last_id.filter(|last| *last > applied) {
            let expected = format!("no row above {applied}, where the frontier row stands");
            let found = format!("rows up to {last}");
            let kind = ViolationKind::RowsAboveFrontier;
            return Err(Violation::new(applied + 1, kind, expected, found));
        }
        if let Some(altered) = self.altered.first() {
            return Err(as_violation(altered));
        }
        let Some(head) = head.filter(|head| head.id.as_i64() == applied) else { return Ok(()) };
        let named = (self.seen.hash.as_deref(), self.seen.digest.as_deref(), self.seen.written_at);
        let hash = head.hash.to_string();
        if named == (Some(&hash), Some(&head.digest.0), Some(head.written_at)) {
            return Ok(());
        }
        let found = format!("hash {}", named.0.unwrap_or("null"));
        let found =
            if named.0 == Some(&hash) { "another digest or time".to_owned() } else { found };
        let expected = format!("hash {hash} and digest {} in the frontier row", head.digest);
        Err(Violation::new(applied, ViolationKind::WrongFrontier, expected, found))
    }

    /// Feeds links `from` to `to`.
    pub(crate) async fn read(&self, from: u64, to: u64, sink: Sink<'_>) -> Result<(), ReadError> {
        let (from, to) = (i64::try_from(from), i64::try_from(to));
        let links = self.chain.links(from.unwrap_or(i64::MAX), to.unwrap_or(i64::MAX));
        let mut links = std::pin::pin!(links.ready_chunks(ROWS_AT_ONCE));
        loop {
            let silent = |_| {
                let seconds = SILENCE_MAX.as_secs();
                ReadError::Unreadable(format!("the database sent nothing for {seconds} s"))
            };
            let Some(rows) = timeout(SILENCE_MAX, links.next()).await.map_err(silent)? else {
                return Ok(());
            };
            for row in rows {
                let row = row.map_err(|error| unreadable(&error))?;
                if sink(&row.to_verify()) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
    }
}

fn as_violation(altered: &Altered) -> Violation {
    Violation::new(0, ViolationKind::AlteredTable, &altered.expected, &altered.found)
}

async fn look(chain: &RawChain) -> Result<RawHead, ReadError> {
    answered(chain.head()).await
}

/// Runs a short query in bounded time.
async fn answered<T>(question: impl Future<Output = Result<T, SqlError>>) -> Result<T, ReadError> {
    let silent = |_| ReadError::Unreadable("the database does not answer".to_owned());
    let answer = timeout(SILENCE_MAX, question).await.map_err(silent)?;
    answer.map_err(|error| match error {
        SqlError::Refused { sqlstate, message } if sqlstate == "42P01" => {
            ReadError::Unreadable(format!("{message}: this is not the database of a zone"))
        }
        other => unreadable(&other),
    })
}

fn standing(seen: &RawHead) -> Result<Standing, ReadError> {
    let Some(cluster) = &seen.cluster else {
        let text = "pghc.cluster is empty: the database does not say whose chain it holds";
        return Err(ReadError::Unreadable(text.to_owned()));
    };
    let Some(applied) = seen.applied_id else {
        let found = "no row, or a row without an id";
        let kind = ViolationKind::WrongFrontier;
        return Err(Violation::new(0, kind, "one row in pghc.frontier", found).into());
    };
    let Ok(end) = u64::try_from(applied) else {
        let found = format!("applied_id {applied}");
        let kind = ViolationKind::WrongFrontier;
        return Err(Violation::new(0, kind, "an id from 0 on in pghc.frontier", found).into());
    };
    let cluster = cluster.parse().map_err(|error| unreadable(&error))?;
    Ok(Standing { cluster: Some(cluster), zone: seen.zone.clone(), first: 1, end, head: None })
}

/// An error with its causes in one line.
fn unreadable(error: &dyn std::error::Error) -> ReadError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    ReadError::Unreadable(text)
}
