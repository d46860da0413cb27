//! The newest committed batches in memory, for tails that keep up.

use std::collections::VecDeque;

use pghc_api::limits::TAIL_RING_BYTES_MAX;

use crate::rpc::v1::TailBatch;

/// Consecutive batches, oldest first, of about [`TAIL_RING_BYTES_MAX`] bytes.
#[derive(Debug, Default)]
pub(super) struct Ring {
    batches: VecDeque<TailBatch>,
    bytes: usize,
    /// Id before the oldest batch.
    before: u64,
}

/// What the ring has above an id.
pub(super) enum Above {
    /// The next batches in order; none: the reader is at the end.
    Batches(Vec<TailBatch>),
    /// The reader is further behind than the ring reaches.
    Older,
}

impl Ring {
    /// An empty ring behind `id`.
    pub(super) fn starting_after(id: u64) -> Self {
        Self { before: id, ..Self::default() }
    }

    /// Adds the next batch.
    pub(super) fn push(&mut self, batch: TailBatch) {
        self.bytes += batch.batch.len();
        self.batches.push_back(batch);
        while self.bytes > TAIL_RING_BYTES_MAX && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.batch.len();
                self.before = oldest.last_id;
            }
        }
    }

    /// The batches that hold ids above `after_id`, at most `count`.
    pub(super) fn above(&self, after_id: u64, count: usize) -> Above {
        if after_id < self.before {
            return Above::Older;
        }
        let start = self.batches.partition_point(|batch| batch.last_id <= after_id);
        Above::Batches(self.batches.range(start..).take(count).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Above, Ring};
    use crate::rpc::v1::TailBatch;

    fn batch(first_id: u64, last_id: u64, bytes: usize) -> TailBatch {
        TailBatch { first_id, last_id, batch: vec![0; bytes].into(), ..TailBatch::default() }
    }

    fn first_ids(ring: &Ring, after_id: u64) -> Option<Vec<u64>> {
        match ring.above(after_id, 2) {
            Above::Batches(batches) => Some(batches.iter().map(|batch| batch.first_id).collect()),
            Above::Older => None,
        }
    }

    #[test]
    fn a_reader_gets_the_batch_that_holds_its_next_id() {
        let mut ring = Ring::starting_after(10);
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
        let mut ring = Ring::starting_after(0);
        for id in 1..=70 {
            ring.push(batch(id, id, 1 << 20));
        }
        assert_eq!(first_ids(&ring, 5), None);
        assert_eq!(first_ids(&ring, 6), Some(vec![7, 8]));
    }
}
