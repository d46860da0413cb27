//! Pure: how queued writes become batches. A batch is what queued up while the batches before it were in
//! flight; `linger` decides when it leaves.

use std::collections::VecDeque;
use std::time::Duration;

use pghc_api::limits::{BATCH_BYTES_MAX, BATCH_WRITES_MAX, BATCHES_IN_FLIGHT_MAX};

/// Round trips remembered to find the shortest.
const ROUND_TRIPS: usize = 64;

/// One batch in flight for every so much of the shortest round trip.
const SPACING: Duration = Duration::from_millis(4);

/// How much queued work weighs.
pub(crate) trait Weigh {
    /// Number of writes.
    fn writes(&self) -> usize;
    /// Bytes of keys and payloads.
    fn bytes(&self) -> usize;
}

/// Takes from the front of `queue` what fits into one batch: at least one group, even if it is over
/// the limits by itself.
pub(crate) fn next_batch<G: Weigh>(queue: &mut VecDeque<G>) -> Vec<G> {
    let (mut writes, mut bytes, mut count) = (0, 0, 0);
    for group in queue.iter() {
        writes += group.writes();
        bytes += group.bytes();
        if count > 0 && (writes > BATCH_WRITES_MAX || bytes > BATCH_BYTES_MAX) {
            break;
        }
        count += 1;
    }
    queue.drain(..count).collect()
}

/// How many batches may be in flight: one where the round trip is short, so that writes gather
/// into batches by themselves; more where it is long, so that none waits for a whole round trip.
#[derive(Debug, Default)]
pub(crate) struct Window {
    round_trips: VecDeque<Duration>,
}

impl Window {
    /// Notes the round trip of a batch that was answered.
    pub(crate) fn note(&mut self, round_trip: Duration) {
        if self.round_trips.len() == ROUND_TRIPS {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
    }

    /// Batches that may be in flight.
    pub(crate) fn batches(&self) -> usize {
        let shortest = self.round_trips.iter().min().copied().unwrap_or_default();
        let spacings = shortest.as_micros() / SPACING.as_micros();
        usize::try_from(spacings).unwrap_or(usize::MAX).clamp(1, BATCHES_IN_FLIGHT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use pghc_api::limits::{BATCH_BYTES_MAX, BATCH_WRITES_MAX, BATCHES_IN_FLIGHT_MAX};

    use super::{Weigh, Window, next_batch};

    impl Weigh for (usize, usize) {
        fn writes(&self) -> usize {
            self.0
        }
        fn bytes(&self) -> usize {
            self.1
        }
    }

    fn sizes(groups: &[(usize, usize)]) -> Vec<usize> {
        let mut queue: VecDeque<_> = groups.iter().copied().collect();
        let mut sizes = Vec::new();
        while !queue.is_empty() {
            sizes.push(next_batch(&mut queue).len());
        }
        sizes
    }

    #[test]
    fn batch_is_limited_by_count_or_bytes() {
        assert_eq!(sizes(&[(1, 1); 3]), [3]);
        assert_eq!(sizes(&[(BATCH_WRITES_MAX, 1), (1, 1)]), [1, 1]);
        assert_eq!(sizes(&[(1, BATCH_BYTES_MAX), (1, 0), (1, 1)]), [2, 1]);
        assert_eq!(sizes(&[(1, BATCH_BYTES_MAX * 4), (1, 1)]), [1, 1]);
    }

    #[test]
    fn the_window_opens_with_the_shortest_round_trip() {
        let mut window = Window::default();
        assert_eq!(window.batches(), 1);
        window.note(Duration::from_millis(100));
        assert_eq!(window.batches(), 25);
        window.note(Duration::from_millis(2));
        assert_eq!(window.batches(), 1);
        for _ in 0..64 {
            window.note(Duration::from_millis(900));
        }
        assert_eq!(window.batches(), BATCHES_IN_FLIGHT_MAX);
    }
}
