//! The newest committed batches in memory, for tails that keep up.

use std::collections::VecDeque;

use crate::rpc::v1::TailBatch;

/// Bytes that a batch takes beside its own: its fields, its chain values, and what counts their users.
/// Without them small batches would take several times the memory that is meant.
const BATCH_BYTES_BESIDE: usize = size_of::<TailBatch>() + 144;

fn taken(batch: &TailBatch) -> usize {
    batch.batch.len() + batch.skipped_positions.len() * size_of::<u32>() + BATCH_BYTES_BESIDE
}

/// Consecutive batches, oldest first, of about a given number of bytes of memory.
#[derive(Debug)]
pub(crate) struct BatchCache {
    bytes_max: usize,
    batches: VecDeque<TailBatch>,
    bytes: usize,
    /// Id before the oldest batch.
    before: u64,
}

/// What the ring has above an id.
pub(crate) enum CacheLookup {
    /// The next batches in order; none: the reader is at the end.
    Batches(Vec<TailBatch>),
    /// The reader is further behind than the ring reaches.
    Evicted,
}

impl BatchCache {
    /// An empty ring behind `id` for about `bytes_max` bytes.
    pub(crate) fn starting_after(id: u64, bytes_max: usize) -> Self {
        Self { bytes_max, batches: VecDeque::new(), bytes: 0, before: id }
    }

    /// Forgets everything and goes on behind `id`.
    pub(crate) fn start_after(&mut self, id: u64) {
        *self = Self::starting_after(id, self.bytes_max);
    }

    /// Adds the next batch.
    pub(crate) fn push(&mut self, batch: TailBatch) {
        self.bytes += taken(&batch);
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= taken(&oldest);
                self.before = oldest.last_id;
            }
        }
    }

    /// The batches that hold ids above `after_id`: at most `count`, and no more than about `bytes`
    /// unless the first is larger.
    pub(crate) fn above(&self, after_id: u64, count: usize, bytes: usize) -> CacheLookup {
        if after_id < self.before {
            return CacheLookup::Evicted;
        }
        let start = self.batches.partition_point(|batch| batch.last_id <= after_id);
        let mut room = bytes;
        let fits = |batch: &&TailBatch| {
            let fits = room > 0;
            room = room.saturating_sub(batch.batch.len());
            fits
        };
        CacheLookup::Batches(
            self.batches.range(start..).take(count).take_while(fits).cloned().collect(),
        )
    }

    /// Id before the oldest batch.
    pub(crate) fn before(&self) -> u64 {
        self.before
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchCache, CacheLookup};
    use crate::rpc::v1::TailBatch;

    fn batch(first_id: u64, last_id: u64, bytes: usize) -> TailBatch {
        TailBatch { first_id, last_id, batch: vec![0; bytes].into(), ..TailBatch::default() }
    }

    fn first_ids(ring: &BatchCache, after_id: u64) -> Option<Vec<u64>> {
        match ring.above(after_id, 2, 1 << 30) {
            CacheLookup::Batches(batches) => {
                Some(batches.iter().map(|batch| batch.first_id).collect())
            }
            CacheLookup::Evicted => None,
        }
    }

    #[test]
    fn a_reader_gets_the_batch_that_holds_its_next_id() {
        let mut ring = BatchCache::starting_after(10, 1 << 16);
        for (first, last) in [(11, 13), (14, 14), (15, 20)] {
            ring.push(batch(first, last, 1));
        }
        assert_eq!(first_ids(&ring, 9), None);
        assert_eq!(first_ids(&ring, 10), Some(vec![11, 14]));
        assert_eq!(first_ids(&ring, 12), Some(vec![11, 14]));
        assert_eq!(first_ids(&ring, 13), Some(vec![14, 15]));
        assert_eq!(first_ids(&ring, 20), Some(vec![]));
    }

    #[test]
    fn the_ring_forgets_its_oldest_batches_and_says_so() {
        let mut ring = BatchCache::starting_after(0, 64 << 20);
        for id in 1..=70 {
            ring.push(batch(id, id, 1 << 20));
        }
        assert_eq!(first_ids(&ring, 6), None, "what a batch takes beside its bytes counts, too");
        assert_eq!(first_ids(&ring, 7), Some(vec![8, 9]));
    }

    #[test]
    fn small_batches_take_no_more_memory_than_large_ones() {
        let mut ring = BatchCache::starting_after(0, 64 << 10);
        for id in 1..=10_000 {
            ring.push(batch(id, id, 1));
        }
        let held = 10_000 - usize::try_from(ring.before()).expect("small");
        assert!((100..=250).contains(&held), "{held} batches");
    }

    #[test]
    fn no_more_is_handed_out_than_asked_for_in_bytes_but_always_one_batch() {
        let mut ring = BatchCache::starting_after(0, 1 << 16);
        for id in 1..=9 {
            ring.push(batch(id, id, 100));
        }
        for (bytes, expected) in [(1, 1), (100, 1), (101, 2), (300, 3), (9_000, 5)] {
            let CacheLookup::Batches(batches) = ring.above(0, 5, bytes) else {
                panic!("it is here")
            };
            assert_eq!(batches.len(), expected, "{bytes} bytes");
        }
    }
}
