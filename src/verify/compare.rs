//! Compares what two sources hold under the same ids, in constant memory.
//!
//! A check leaves marks: the hash and digest of some links, on a grid shared by all sources. Where
//! a mark differs, or where the marks end, the block behind the last equal one is read again with a
//! finer grid, until one id is left. Each round divides the block by [`MARKS_MAX`], so a billion
//! links take three.
//!
//! Equal marks mean equal links between them, because each source was found sound and a digest
//! covers everything before it.

use std::ops::ControlFlow;

use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_api::time::Micros;
use pghc_api::verify::{RawDigest, RawLink, RawTime};
use serde::Serialize;

use super::reading::ReadError;
use super::source::Source;

/// Most marks on a grid, beside its pins.
pub(crate) const MARKS_MAX: u64 = 1024;

/// The ids at which marks are left: every `step`th after `after`, the last, and the pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grid {
    after: u64,
    to: u64,
    step: u64,
    pins: Vec<u64>,
}

impl Grid {
    /// A grid over the ids above `after` up to `to`; `pins` ascend.
    pub(crate) fn over(after: u64, to: u64, pins: Vec<u64>) -> Self {
        let step = to.saturating_sub(after).div_ceil(MARKS_MAX).max(1);
        Self { after, to, step, pins }
    }

    /// Whether the link of this id is marked.
    pub(crate) fn holds(&self, id: u64) -> bool {
        let inside = id > self.after && id <= self.to;
        inside
            && ((id - self.after).is_multiple_of(self.step)
                || id == self.to
                || self.pins.binary_search(&id).is_ok())
    }
}

/// The chain values of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) id: u64,
    pub(crate) hash: LinkHash,
    pub(crate) digest: Digest,
}

impl Mark {
    /// The mark of a sound link.
    pub(crate) fn of(head: &Head) -> Self {
        Self { id: head.id.get(), hash: head.hash, digest: head.digest }
    }

    /// The mark of a link that was found sound before; `None` if it is no longer readable.
    pub(crate) fn of_raw(link: &RawLink<'_>) -> Option<Self> {
        let digest = match link.digest? {
            RawDigest::Bytes(bytes) => Digest(bytes.try_into().ok()?),
            RawDigest::Hex(text) => text.parse().ok()?,
        };
        Some(Self { id: link.id.try_into().ok()?, hash: link.hash?.parse().ok()?, digest })
    }
}

/// Comparison of two rows of marks for the ids above `after` up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Equal,
    /// The first difference is above `after` and at or below `at`.
    Differs {
        after: u64,
        at: u64,
    },
    /// No mark lies above `after`.
    Open {
        after: u64,
    },
}

fn compare_marks(left: &[Mark], right: &[Mark], after: u64, to: u64) -> Outcome {
    let mut equal = after;
    let mut right = right.iter().peekable();
    for mark in left.iter().filter(|mark| mark.id > after && mark.id <= to) {
        while right.next_if(|other| other.id < mark.id).is_some() {}
        match right.peek() {
            Some(other) if other.id == mark.id && **other == *mark => equal = mark.id,
            Some(other) if other.id == mark.id => {
                return Outcome::Differs { after: equal, at: mark.id };
            }
            _ => {}
        }
    }
    if equal == to { Outcome::Equal } else { Outcome::Open { after: equal } }
}

/// A source that was checked, and the unbroken run of links found sound in it.
pub(crate) struct Side<'a> {
    pub(crate) source: &'a mut Source,
    pub(crate) marks: &'a [Mark],
}

/// The first id above `after` up to `to` under which the two hold different links.
///
/// # Errors
/// If a block cannot be read again.
pub(crate) async fn first_difference(
    left: Side<'_>,
    right: Side<'_>,
    after: u64,
    to: u64,
) -> Result<Option<u64>, ReadError> {
    let mut outcome = compare_marks(left.marks, right.marks, after, to);
    loop {
        let (after, to) = match outcome {
            Outcome::Equal => return Ok(None),
            Outcome::Differs { after, at } if at == after + 1 => return Ok(Some(at)),
            Outcome::Differs { after, at } => (after, at),
            Outcome::Open { after } => (after, to),
        };
        let grid = Grid::over(after, to, Vec::new());
        let one = read_marks(left.source, &grid).await?;
        let other = read_marks(right.source, &grid).await?;
        outcome = compare_marks(&one, &other, after, to);
        if matches!(outcome, Outcome::Open { .. }) {
            let text = format!("links {} to {to} changed while they were read", after + 1);
            return Err(ReadError::Unreadable(text));
        }
    }
}

async fn read_marks(source: &mut Source, grid: &Grid) -> Result<Vec<Mark>, ReadError> {
    let mut marks = Vec::new();
    let sink = &mut |link: &RawLink<'_>| {
        if let Some(mark) = Mark::of_raw(link).filter(|mark| grid.holds(mark.id)) {
            marks.push(mark);
        }
        ControlFlow::Continue(())
    };
    source.read(grid.after + 1, grid.to, sink).await?;
    Ok(marks)
}

/// A link as one source holds it, for the report of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Name of the source.
    pub zone: String,
    /// API node that accepted the write.
    pub node_id: String,
    /// MD5 chain value.
    pub hash: String,
    /// SHA-256 chain value.
    pub digest: String,
    /// Commit time.
    pub written_at: String,
}

/// Reads one link unchecked.
pub(crate) async fn see(source: &mut Source, zone: &str, id: u64) -> Result<Seen, ReadError> {
    let mut seen = None;
    let sink = &mut |link: &RawLink<'_>| {
        let text = |value: Option<&str>| value.unwrap_or("null").to_owned();
        seen = Some(Seen {
            zone: zone.to_owned(),
            node_id: text(link.node),
            hash: text(link.hash),
            digest: Mark::of_raw(link).map_or("malformed".to_owned(), |m| m.digest.to_string()),
            written_at: match link.written_at {
                Some(RawTime::Micros(micros)) => Micros(micros).to_string(),
                Some(RawTime::Text(time)) => time.to_owned(),
                None => text(None),
            },
        });
        ControlFlow::Break(())
    };
    source.read(id, id, sink).await?;
    seen.ok_or_else(|| ReadError::Unreadable(format!("link {id} is no longer there")))
}

#[cfg(test)]
mod tests {
    use pghc_api::chain::{Digest, LinkHash};

    use super::{Grid, MARKS_MAX, Mark, Outcome, compare_marks};

    fn mark(id: u64, value: u8) -> Mark {
        Mark { id, hash: LinkHash([value; 16]), digest: Digest([value; 32]) }
    }

    #[test]
    fn grid_keeps_end_with_pins_within_bound() {
        for to in [1, 2, 1023, 1024, 1025, 5000, 1_000_000] {
            let grid = Grid::over(0, to, vec![3]);
            assert!(grid.holds(to) && !grid.holds(to + 1) && !grid.holds(0), "{to}");
            assert_eq!(grid.holds(3), to >= 3, "{to}");
            let marks = (1..=to).filter(|id| grid.holds(*id)).count() as u64;
            assert!(marks <= MARKS_MAX + 2, "{marks} marks up to {to}");
        }
        let all = Grid::over(7, 7 + MARKS_MAX, Vec::new());
        assert!((8..=7 + MARKS_MAX).all(|id| all.holds(id)));
    }

    #[test]
    fn marks_say_where_to_look() {
        let left = [mark(10, 1), mark(20, 2), mark(30, 3)];
        let check = |right: &[Mark], to, outcome| {
            assert_eq!(compare_marks(&left, right, 0, to), outcome, "{right:?} to {to}");
            assert_eq!(compare_marks(right, &left, 0, to), outcome, "{right:?} to {to}");
        };
        check(&left, 30, Outcome::Equal);
        check(&left, 35, Outcome::Open { after: 30 });
        check(&left[..2], 25, Outcome::Open { after: 20 });
        check(&[], 30, Outcome::Open { after: 0 });
        check(&[mark(10, 1), mark(20, 9), mark(30, 9)], 30, Outcome::Differs { after: 10, at: 20 });
        check(&[mark(10, 1), mark(30, 9)], 30, Outcome::Differs { after: 10, at: 30 });
    }
}
