//! Content of the log in memory: each record's place, the purge mark, vote and commit index. Pure.
//!
//! Live calls and recovery take the same steps. Invariant: the records are those of `first..next`
//! without a hole, and `first` is one above the purge mark (0 without one).

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::frame::{At, Frame, Kind, Restated};

/// Place of a record's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u32,
    pub(super) body_bytes: u32,
}

impl Place {
    pub(super) fn new(at: At, body_bytes: usize) -> Self {
        Self {
            segment: at.segment,
            offset: u32::try_from(at.offset).expect("segments are smaller than 4 GiB"),
            body_bytes: u32::try_from(body_bytes).expect("bodies are at most BODY_BYTES_MAX"),
        }
    }

    pub(super) fn at(self) -> At {
        At { segment: self.segment, offset: u64::from(self.offset) }
    }
}

/// Records, purge mark, vote and commit index.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    first: u64,
    places: VecDeque<Place>,
    purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
}

impl Content {
    /// Returns the index of the lowest record that is or could be in the log.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the index of the next appended record.
    pub(super) fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    pub(super) fn purged(&self) -> Option<&(u64, Bytes)> {
        self.purged.as_ref()
    }

    /// Returns the place of record `index`; `None` if there is none.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        let at = index.checked_sub(self.first)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// Returns the existing part of `range`; empty if its first record does not exist.
    pub(super) fn existing(&self, range: &Range<u64>) -> Range<u64> {
        if range.start < self.first {
            return range.start..range.start;
        }
        range.start..range.end.min(self.next()).max(range.start)
    }

    /// Returns the number of the oldest segment with a record.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.places.front().map(|place| place.segment)
    }

    /// # Panics
    /// If `index` is not the next: a hole in a Raft log would be served as agreed history.
    pub(super) fn append(&mut self, index: u64, place: Place) {
        assert_eq!(index, self.next(), "records are appended without a hole");
        self.places.push_back(place);
    }

    /// Drops the records from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        let keep = next.saturating_sub(self.first);
        self.places.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        if self.places.is_empty() {
            self.first = next;
        }
    }

    /// Drops the records up to `index`.
    pub(super) fn purge(&mut self, index: u64, mark: Bytes) {
        let gone = (index + 1).saturating_sub(self.first);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.places.len());
        self.places.drain(..gone);
        self.first = self.first.max(index + 1);
        self.purged = Some((index, mark));
    }

    /// Returns the content of the next segment's first frame.
    pub(super) fn restated(&self, previous_end: u64) -> Restated {
        Restated {
            previous_end,
            purged: self.purged.clone(),
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        }
    }

    /// Adopts the content that the oldest existing segment states: earlier segments hold the
    /// records below `next` and are gone.
    pub(super) fn adopt(next: u64, restated: Restated) -> Self {
        Self {
            first: next,
            places: VecDeque::new(),
            purged: restated.purged,
            vote: restated.vote,
            committed: restated.committed,
        }
    }

    /// Whether a record is missing between the purge mark and the first one; see [`Self::adopt`].
    pub(super) fn lacks_records(&self) -> bool {
        self.first > self.purged.as_ref().map_or(0, |(index, _)| index + 1)
    }

    /// Takes the step recorded by `frame` at `at`; returns false if it cannot follow.
    pub(super) fn apply(&mut self, frame: &Frame<'_>, at: At) -> bool {
        let body = || Bytes::copy_from_slice(frame.body);
        // No record can follow the largest index; only a damaged log names it.
        if frame.number == u64::MAX {
            return false;
        }
        match frame.kind {
            Kind::Record if frame.number != self.next() => return false,
            Kind::Record => self.append(frame.number, Place::new(at, frame.body.len())),
            Kind::Truncate => self.truncate(frame.number),
            Kind::Purge => self.purge(frame.number, body()),
            Kind::Vote => self.vote = Some(body()),
            Kind::Committed => self.committed = Some(body()),
            Kind::Mark | Kind::Open => {}
            Kind::Restate | Kind::Seal => return false,
        }
        true
    }
}

/// Memory of a body besides its bytes, so that small bodies respect the limit.
const BODY_BYTES_BESIDE: usize = size_of::<Bytes>() + 32;

fn taken(body: &Bytes) -> usize {
    body.len() + BODY_BYTES_BESIDE
}

/// Newest bodies, cached to save disk reads.
///
/// Invariant: they are those of `first..first + len` and end where the log ends. Unwritten bodies
/// are always cached.
#[derive(Debug)]
pub(super) struct Cache {
    first: u64,
    bodies: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    /// Creates an empty cache for a log whose next record is `next`.
    pub(super) fn new(next: u64, bytes_max: usize) -> Self {
        Self { first: next, bodies: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn get(&self, index: u64) -> Option<&Bytes> {
        self.bodies.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn append(&mut self, body: Bytes) {
        self.bytes += taken(&body);
        self.bodies.push_back(body);
    }

    /// Drops the bodies from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.first + self.bodies.len() as u64 > next
            && let Some(body) = self.bodies.pop_back()
        {
            self.bytes -= taken(&body);
        }
        if self.bodies.is_empty() {
            self.first = next;
        }
    }

    /// Drops the bodies below `first`.
    pub(super) fn purge(&mut self, first: u64) {
        while self.first < first && self.pop() {}
        self.first = self.first.max(first);
    }

    /// Drops the oldest bodies below `written`, which are on disk, down to the limit.
    pub(super) fn evict(&mut self, written: u64) {
        while self.bytes > self.bytes_max && self.first < written && self.pop() {}
    }

    fn pop(&mut self) -> bool {
        let Some(body) = self.bodies.pop_front() else { return false };
        self.bytes -= taken(&body);
        self.first += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Cache, Content, Place};
    use crate::coordinator::log::frame::{At, Frame, Kind};

    fn content(records: u64) -> Content {
        let mut content = Content::default();
        for index in 0..records {
            content.append(index, Place::new(At { segment: index / 4, offset: 64 }, 8));
        }
        content
    }

    #[test]
    fn existing_range_starts_at_its_start_or_is_empty() {
        let mut content = content(10);
        content.purge(3, Bytes::new());
        assert_eq!(content.existing(&(4..20)), 4..10);
        assert_eq!(content.existing(&(6..8)), 6..8);
        assert!(content.existing(&(3..8)).is_empty(), "3 is purged");
        assert!(content.existing(&(10..12)).is_empty());
        assert!(content.existing(&(12..20)).is_empty());
        assert_eq!(content.oldest_segment(), Some(1));
    }

    #[test]
    fn step_with_the_largest_index_is_rejected() {
        let at = At { segment: 1, offset: 64 };
        for kind in [Kind::Record, Kind::Truncate, Kind::Purge] {
            let mut content = Content::default();
            let frame = Frame { kind, session: 1, number: u64::MAX, body: b"" };
            assert!(!content.apply(&frame, at), "{kind:?}");
        }
    }

    #[test]
    fn purge_may_exceed_the_last_record() {
        let mut content = content(10);
        content.purge(99, Bytes::new());
        assert_eq!((content.first(), content.next()), (100, 100));
        assert_eq!(content.oldest_segment(), None);
    }

    #[test]
    fn cache_keeps_unwritten_bodies() {
        let mut cache = Cache::new(5, 10 + 2 * super::BODY_BYTES_BESIDE);
        for _ in 0..6 {
            cache.append(Bytes::from_static(b"four"));
        }
        cache.evict(7);
        assert!(cache.get(6).is_none() && cache.get(7).is_some(), "written ones go first");
        cache.evict(11);
        assert!(cache.get(8).is_none() && cache.get(9).is_some(), "then the limit holds");
        cache.truncate(6);
        cache.append(Bytes::from_static(b"new"));
        assert_eq!(cache.get(6).map(Bytes::as_ref), Some(&b"new"[..]));
    }
}
