//! Caches the newest committed batches in memory, for tails that keep up.

use std::collections::VecDeque;

use pghc_runtime::rpc::v1::TailBatch;

/// Memory of a batch besides its bytes: fields, chain values, reference counts. Without it small
/// batches would exceed the limit several times.
const BATCH_OVERHEAD_BYTES: usize = size_of::<TailBatch>() + 144;

fn taken(batch: &TailBatch) -> usize {
    batch.batch.len() + batch.skipped_positions.len() * size_of::<u32>() + BATCH_OVERHEAD_BYTES
}

/// Consecutive batches, oldest first, within a memory limit.
#[derive(Debug)]
pub(crate) struct BatchCache {
    bytes_max: usize,
    batches: VecDeque<TailBatch>,
    bytes: usize,
    /// Id before the oldest batch.
    before: u64,
}

/// Result of a lookup.
pub(crate) enum CacheLookup {
    /// The next batches in order; empty if the reader is at the end.
    Batches(Vec<TailBatch>),
    /// The reader's next batch is no longer in memory.
    Evicted,
}

impl BatchCache {
    /// Creates an empty cache behind `id` with a limit of about `bytes_max` bytes.
    pub(crate) fn starting_after(id: u64, bytes_max: usize) -> Self {
        Self { bytes_max, batches: VecDeque::new(), bytes: 0, before: id }
    }

    /// Clears the cache and continues behind `id`.
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

    /// Returns the batches above `after_id`: at most `count`, and about `bytes` bytes unless the
    /// first is larger.
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

    /// Returns the id before the oldest batch.
    pub(crate) fn before(&self) -> u64 {
        self.before
    }
}

#[cfg(test)]
mod tests {
    use pghc_runtime::rpc::v1::TailBatch;

    use super::{BatchCache, CacheLookup};

    fn batch(first_id: u64, last_id: u64, bytes: usize) -> TailBatch {
        TailBatch { first_id, last_id, batch: vec![0; bytes].into(), ..TailBatch::default() }
    }

    fn first_ids(batch_cache: &BatchCache, after_id: u64) -> Option<Vec<u64>> {
        match batch_cache.above(after_id, 2, 1 << 30) {
            CacheLookup::Batches(batches) => {
                Some(batches.iter().map(|batch| batch.first_id).collect())
            }
            CacheLookup::Evicted => None,
        }
    }

    #[test]
    fn reader_gets_the_batch_with_its_next_id() {
        let mut batch_cache = BatchCache::starting_after(10, 1 << 16);
        for (first, last) in [(11, 13), (14, 14), (15, 20)] {
            batch_cache.push(batch(first, last, 1));
        }
        assert_eq!(first_ids(&batch_cache, 9), None);
        assert_eq!(first_ids(&batch_cache, 10), Some(vec![11, 14]));
        assert_eq!(first_ids(&batch_cache, 12), Some(vec![11, 14]));
        assert_eq!(first_ids(&batch_cache, 13), Some(vec![14, 15]));
        assert_eq!(first_ids(&batch_cache, 20), Some(vec![]));
    }

    #[test]
    fn oldest_batches_are_evicted() {
        let mut batch_cache = BatchCache::starting_after(0, 64 << 20);
        for id in 1..=70 {
            batch_cache.push(batch(id, id, 1 << 20));
        }
        assert_eq!(first_ids(&batch_cache, 6), None, "the overhead counts, too");
        assert_eq!(first_ids(&batch_cache, 7), Some(vec![8, 9]));
    }

    #[test]
    fn small_batches_stay_within_the_memory_limit() {
        let mut batch_cache = BatchCache::starting_after(0, 64 << 10);
        for id in 1..=10_000 {
            batch_cache.push(batch(id, id, 1));
        }
        let held = 10_000 - usize::try_from(batch_cache.before()).expect("small");
        assert!((100..=250).contains(&held), "{held} batches");
    }

    #[test]
    fn lookup_is_bounded_in_bytes_except_for_one_batch() {
        let mut batch_cache = BatchCache::starting_after(0, 1 << 16);
        for id in 1..=9 {
            batch_cache.push(batch(id, id, 100));
        }
        for (bytes, expected) in [(1, 1), (100, 1), (101, 2), (300, 3), (9_000, 5)] {
            let CacheLookup::Batches(batches) = batch_cache.above(0, 5, bytes) else {
                panic!("it is here")
            };
            assert_eq!(batches.len(), expected, "{bytes} bytes");
        }
    }
}
