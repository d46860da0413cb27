//! The check of this zone's own chain: every link recomputed, at a bounded rate, and where it went
//! wrong found by bisection over digests that the coordinators vouch for.
//!
//! Invariant: what is reported is wrong, and nothing before the id reported is, as far as the links
//! that were recomputed go. A chain that was rewritten consistently is sound in itself; that it is not
//! the one that was ordered is for the caller to find (`witness.rs`). Nothing here changes the chain.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use pghc_api::chain::{Digest, Head};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::verify::{Verifier, Violation, ViolationKind};
use pghc_postgres::{RawChain, RawHead, ReadError};
use tokio::time::Instant;

/// Rows checked at a time.
const ROWS_AT_ONCE: usize = 256;

/// Most rows read under one snapshot.
const PIECE_ROWS_MAX: u64 = 20_000;

/// How fast a check may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Most rows a second, at least 1.
    pub rows: u32,
    /// Most payload bytes a second, at least 1.
    pub bytes: u32,
}

impl Rate {
    /// As fast as it goes.
    pub const UNBOUNDED: Self = Self { rows: u32::MAX, bytes: u32::MAX };

    /// How long this much may not take less than.
    fn time_for(self, rows: u64, bytes: u64) -> Duration {
        let share = |count: u64, rate: u32| {
            Duration::from_micros(count.saturating_mul(1_000_000) / u64::from(rate.max(1)))
        };
        share(rows, self.rows).max(share(bytes, self.bytes))
    }

    /// How many rows to read at a time, after so many with so many bytes: what takes a twentieth of a
    /// second at this rate if they go on like that.
    fn piece(self, rows: u64, bytes: u64) -> i64 {
        let each = bytes.checked_div(rows).unwrap_or_default().max(1);
        let fitting = (u64::from(self.bytes) / each).min(self.rows.into());
        (fitting / 20).clamp(1, PIECE_ROWS_MAX).cast_signed()
    }
}

/// Result of checking the whole chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Sound up to this head, which is the frontier's; `None` while the chain is empty.
    Sound(Option<Head>),
    /// The first link that does not follow.
    Bad(Violation),
    /// The database was replaced or set back meanwhile: nothing is known.
    Moved,
}

/// Known digests of the ordered chain.
pub trait Reference: Send + Sync {
    /// The newest link at or below `id` whose digest is known, and that digest; `None` when none is or
    /// can be had.
    fn known(&self, id: u64) -> BoxFuture<'_, Option<(u64, Digest)>>;

    /// The digests of the links behind `from`, up to `id` at least, where [`Reference::known`] has gaps.
    fn between(&self, from: Option<Head>, id: u64) -> BoxFuture<'_, Option<Vec<Digest>>>;
}

/// Recomputes the chain from link `from` to its frontier. Links before it are not looked at but for the
/// one right before it, from which it must follow.
///
/// # Errors
/// When the database does not answer; nothing is known then.
pub async fn check(
    chain: &RawChain,
    cluster: &ClusterId,
    from: WriteId,
    rate: Rate,
) -> Result<Checked, ReadError> {
    let extent = chain.head().await?;
    match walk(chain, cluster, &extent, from, rate).await? {
        Ok(head) => Ok(Checked::Sound(head)),
        Err(violation) => {
            // Whatever it is must still be there: a database that is being replaced shows the
            // beginning of one chain and the end of another.
            let now = chain.head().await?;
            if now.applied_id < extent.applied_id || now.cluster != extent.cluster {
                return Ok(Checked::Moved);
            }
            Ok(Checked::Bad(violation))
        }
    }
}

async fn walk(
    chain: &RawChain,
    cluster: &ClusterId,
    extent: &RawHead,
    from: WriteId,
    rate: Rate,
) -> Result<Result<Option<Head>, Violation>, ReadError> {
    let Some(applied) = extent.applied_id.and_then(|id| u64::try_from(id).ok()) else {
        let kind = ViolationKind::WrongFrontier;
        return Ok(Err(Violation::new(0, kind, "one row in pghc.frontier", "none, or no id")));
    };
    if let Some(first) = extent.first_id.filter(|first| *first < 1) {
        let kind = ViolationKind::BadId;
        return Ok(Err(Violation::new(first, kind, "no row below link 1", "a row")));
    }
    let mut verifier = Verifier::new(cluster.clone(), from);
    let started = Instant::now();
    let (mut rows, mut bytes) = (0_u64, 0_u64);
    let (mut next, applied_id) = (verifier.next_id().cast_signed(), applied.cast_signed());
    while next <= applied_id {
        // Nothing is waited for within a piece: it would hold its snapshot, under which every version of
        // the frontier's row piles up, and each batch would be applied the slower.
        let piece = rate.piece(rows, bytes);
        let last = next.saturating_add(piece - 1).min(applied_id);
        let links = chain.links(next, last);
        let mut links = std::pin::pin!(links.ready_chunks(ROWS_AT_ONCE));
        while let Some(chunk) = links.next().await {
            for row in chunk {
                let row = row?;
                rows += 1;
                bytes += row.payload().map_or(0, |payload| payload.len() as u64);
                if let Err(violation) = verifier.check(&row.to_verify()) {
                    return Ok(Err(violation));
                }
            }
        }
        tokio::time::sleep_until(started + rate.time_for(rows, bytes)).await;
        next = last + 1;
    }
    if let Err(violation) = verifier.finish(applied) {
        return Ok(Err(violation));
    }
    Ok(ends_well(extent, applied, verifier.head()).map(|()| verifier.head().copied()))
}

/// Whether frontier and rows of one snapshot end where the checked links do.
fn ends_well(extent: &RawHead, applied: u64, head: Option<&Head>) -> Result<(), Violation> {
    let at = applied.cast_signed();
    let due = head.map(|head| (head.hash.to_string(), head.digest.0.to_vec(), head.written_at));
    let named = extent.hash.clone().zip(extent.digest.clone()).zip(extent.written_at);
    let named = named.map(|((hash, digest), at)| (hash, digest, at));
    if named != due {
        let expected =
            head.map_or("no head".to_owned(), |h| format!("{} and {}", h.hash, h.digest));
        let found = extent.hash.as_deref().unwrap_or("null");
        let found = format!("hash {found}, another digest or another time in the frontier row");
        return Err(Violation::new(at, ViolationKind::WrongFrontier, expected, found));
    }
    match extent.last_id.filter(|last| *last > at) {
        None => Ok(()),
        Some(last) => {
            let expected = format!("no row above {applied}, where the frontier stands");
            let found = format!("rows up to {last}");
            Err(Violation::new(at + 1, ViolationKind::RowsAboveFrontier, expected, found))
        }
    }
}

/// Where a chain went wrong, as far as it could be found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The first link known to be wrong.
    pub violation: Violation,
    /// Whether nothing before it is wrong; `false` when the reference did not answer all that was
    /// asked, and asking again may find an earlier one.
    pub is_first: bool,
}

/// Finds where a chain went wrong that shows `violation`: a link whose digest was made to fit its
/// content shows only at the one behind it, a rewritten end only at its last. Asks the reference
/// for O(log n) digests.
///
/// # Errors
/// When the database does not answer.
pub async fn locate(
    chain: &RawChain,
    cluster: &ClusterId,
    violation: Violation,
    reference: &dyn Reference,
) -> Result<Located, ReadError> {
    let Ok(mut different) = u64::try_from(violation.id) else {
        return Ok(Located { violation, is_first: true });
    };
    let mut first = violation;
    // Nothing that is known lies between `equal` and `low`.
    let (mut equal, mut low) = (0, 0);
    while different.saturating_sub(low) > 1 {
        let middle = low + (different - low) / 2;
        match reference.known(middle).await.filter(|(known, _)| *known > low) {
            Some((known, due)) => match own_digest(chain, known).await? {
                Some(is) if is == due => (equal, low) = (known, middle),
                is => (different, first) = (known, fork(known, due, is)),
            },
            None => low = middle,
        }
    }
    if different.saturating_sub(equal) <= 1 {
        return Ok(Located { violation: first, is_first: true });
    }
    between(chain, cluster, (equal, different), first, reference).await
}

/// As [`locate`], among the links between `equal` and `different`, none of which is known.
async fn between(
    chain: &RawChain,
    cluster: &ClusterId,
    (equal, different): (u64, u64),
    mut first: Violation,
    reference: &dyn Reference,
) -> Result<Located, ReadError> {
    let from = if equal == 0 { None } else { own_head(chain, cluster, equal).await? };
    let digests = match reference.between(from, different - 1).await {
        Some(digests) if from.is_some() == (equal != 0) => digests,
        _ => return Ok(Located { violation: first, is_first: false }),
    };
    let due = |id: u64| {
        let place = usize::try_from(id - equal - 1).ok()?;
        digests.get(place).copied()
    };
    let (mut equal, mut different) = (equal, different);
    while different - equal > 1 {
        let middle = equal + (different - equal) / 2;
        let Some(due) = due(middle) else {
            return Ok(Located { violation: first, is_first: false });
        };
        match own_digest(chain, middle).await? {
            Some(is) if is == due => equal = middle,
            is => (different, first) = (middle, fork(middle, due, is)),
        }
    }
    Ok(Located { violation: first, is_first: true })
}

fn fork(id: u64, due: Digest, is: Option<Digest>) -> Violation {
    let is = is.map_or("none".to_owned(), |digest| digest.to_string());
    Violation::new(id.cast_signed(), ViolationKind::Fork, due, is)
}

/// The digest of link `id` as it stands here; `None` when there is no such row, or none in it.
async fn own_digest(chain: &RawChain, id: u64) -> Result<Option<Digest>, ReadError> {
    let mut row = std::pin::pin!(chain.links(id.cast_signed(), id.cast_signed()));
    let Some(row) = row.next().await.transpose()? else { return Ok(None) };
    Ok(row.digest().and_then(|digest| digest.try_into().ok()).map(Digest))
}

/// The chain values of link `id` as they stand here; `None` when they are not readable.
async fn own_head(
    chain: &RawChain,
    cluster: &ClusterId,
    id: u64,
) -> Result<Option<Head>, ReadError> {
    let mut row = std::pin::pin!(chain.links(id.cast_signed(), id.cast_signed()));
    let Some(row) = row.next().await.transpose()? else { return Ok(None) };
    let Ok(next) = WriteId::try_from(id + 1) else { return Ok(None) };
    // A verifier that begins behind a link takes that link's values as they are.
    Ok(Verifier::new(cluster.clone(), next).check(&row.to_verify()).ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Rate;

    #[test]
    fn snapshot_is_held_for_a_twentieth_of_a_second() {
        let rate = Rate { rows: 10_000, bytes: 1_000_000 };
        assert_eq!(rate.piece(0, 0), 500);
        assert_eq!(rate.piece(1_000, 1_000_000), 50, "a kilobyte each");
        assert_eq!(rate.piece(1, u64::MAX), 1);
        assert_eq!(Rate::UNBOUNDED.piece(0, 0), 20_000);
    }

    #[test]
    fn a_check_goes_at_the_slower_of_its_two_rates() {
        let rate = Rate { rows: 1_000, bytes: 1_000_000 };
        assert_eq!(rate.time_for(500, 0), Duration::from_millis(500));
        assert_eq!(rate.time_for(500, 2_000_000), Duration::from_secs(2));
        assert!(Rate::UNBOUNDED.time_for(1_000_000, 1 << 30) < Duration::from_secs(1));
    }
}
