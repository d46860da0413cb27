//! Newest round trips to one coordinator, and their quantiles.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Samples kept: half a minute.
const SAMPLES: usize = 32;

/// Age after which a measurement is dropped.
pub(crate) const FRESH: Duration = Duration::from_secs(10);

/// Samples in microseconds.
#[derive(Debug, Default)]
pub(crate) struct RttSamples {
    newest: VecDeque<u32>,
    heard: Option<Instant>,
}

impl RttSamples {
    /// Adds a round trip. The first after a silence is dropped, since it includes the connection
    /// set-up.
    pub(crate) fn record(&mut self, took: Duration, now: Instant) {
        let is_first = self.heard.is_none_or(|heard| now - heard > FRESH);
        self.heard = Some(now);
        if is_first {
            self.newest.clear();
            return;
        }
        self.newest.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        if self.newest.len() > SAMPLES {
            self.newest.pop_front();
        }
    }

    /// Returns the lower quartile and the 90th percentile; `None` without a fresh sample.
    pub(crate) fn read(&self, now: Instant) -> Option<(u32, u32)> {
        let is_fresh = self.heard.is_some_and(|heard| now - heard <= FRESH);
        let mut sorted: Vec<u32> = self.newest.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1).filter(|_| is_fresh)?;
        Some((sorted[last / 4], sorted[last * 9 / 10]))
    }

    /// Whether the samples suffice for a lasting conclusion.
    pub(crate) fn suffice(&self) -> bool {
        self.newest.len() * 2 >= SAMPLES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{FRESH, RttSamples, SAMPLES};

    #[test]
    fn round_trip_is_the_quartile_despite_outliers() {
        let (mut samples, mut now) = (RttSamples::default(), Instant::now());
        samples.record(Duration::from_secs(3), now);
        assert_eq!(samples.read(now), None, "the first has opened a connection");
        for place in 0..SAMPLES * 2 {
            now += Duration::from_secs(1);
            let took = if place % 10 == 3 { 900 } else { 70 + place as u64 % 2 };
            samples.record(Duration::from_millis(took), now);
        }
        assert_eq!(samples.newest.len(), SAMPLES);
        let (usual, slow) = samples.read(now).expect("fresh");
        assert_eq!((usual, slow), (70_000, 71_000));
        now += FRESH + Duration::from_secs(1);
        assert_eq!(samples.read(now), None, "a silent peer has no round trip");
        samples.record(Duration::from_secs(2), now);
        assert!(samples.newest.is_empty(), "its way may have changed");
    }
}
