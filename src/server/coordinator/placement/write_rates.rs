//! Counts, per zone, the writes ordered through this coordinator, and their latency.
//!
//! Bounded: half a minute by the second, [`SAMPLES_MAX`] samples a second, [`ZONES_MAX`] zones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_runtime::rpc::v1;
use tokio::time::Instant;

/// Seconds kept, and the age up to which they count as recent.
const SECONDS: u64 = 30;
const RECENT_SECONDS: u64 = 5;

/// Latencies kept for each second: the first ones.
const SAMPLES_MAX: usize = 32;

/// Most zones counted; writes of further zones are dropped.
pub(crate) const ZONES_MAX: usize = 64;

/// Longest zone name.
const ZONE_BYTES_MAX: usize = 64;

/// Clones share the counters.
#[derive(Clone)]
pub(crate) struct WriteRates {
    /// Zone of callers that name none.
    own_zone: String,
    began: Instant,
    zones: Arc<Mutex<BTreeMap<String, Seconds>>>,
}

type Seconds = VecDeque<Second>;

#[derive(Default)]
struct Second {
    at: u64,
    writes: u64,
    took_us: Vec<u32>,
}

impl WriteRates {
    /// Starts with empty counters; `own_zone` is the coordinator's zone.
    pub(crate) fn new(own_zone: &str) -> Self {
        Self { own_zone: own_zone.to_owned(), began: Instant::now(), zones: Arc::default() }
    }

    /// Counts a batch of `zone` (empty: the coordinator's own) that was ordered in `took`.
    pub(crate) fn record(&self, zone: &str, writes: usize, took: Duration, now: Instant) {
        let zone = if zone.is_empty() { &self.own_zone } else { zone };
        if zone.len() > ZONE_BYTES_MAX {
            return;
        }
        let at = now.saturating_duration_since(self.began).as_secs();
        let mut zones = self.zones.lock();
        if !zones.contains_key(zone) {
            forget(&mut zones, at);
            if zones.len() >= ZONES_MAX {
                return;
            }
        }
        let seconds = zones.entry(zone.to_owned()).or_default();
        if seconds.back().is_none_or(|second| second.at < at) {
            seconds.push_back(Second { at, ..Second::default() });
            while seconds.front().is_some_and(|second| second.at + SECONDS < at) {
                seconds.pop_front();
            }
        }
        if let Some(second) = seconds.back_mut() {
            second.writes += writes as u64;
            if second.took_us.len() < SAMPLES_MAX {
                second.took_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            }
        }
    }

    /// Returns the present rates and latencies by zone.
    pub(crate) fn read(&self, now: Instant) -> Vec<v1::Traffic> {
        let now = now.saturating_duration_since(self.began);
        let at = now.as_secs();
        let mut zones = self.zones.lock();
        forget(&mut zones, at);
        let milliseconds = now.as_millis().clamp(1_000, u128::from(SECONDS) * 1_000);
        let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        let view = |(zone, seconds): (&String, &Seconds)| {
            let writes: u64 = within(seconds, at, SECONDS).map(|second| second.writes).sum();
            v1::Traffic {
                zone: zone.clone(),
                writes_per_1000_s: writes.saturating_mul(1_000_000) / milliseconds,
                p50_us: median(within(seconds, at, SECONDS)),
                recent_p50_us: median(within(seconds, at, RECENT_SECONDS)),
            }
        };
        zones.iter().map(view).collect()
    }
}

/// Removes zones without recent writes.
fn forget(zones: &mut BTreeMap<String, Seconds>, at: u64) {
    zones.retain(|_, seconds| within(seconds, at, SECONDS).next().is_some());
}

fn within(seconds: &Seconds, at: u64, length: u64) -> impl Iterator<Item = &Second> {
    seconds.iter().rev().take_while(move |second| second.at + length > at)
}

fn median<'a>(seconds: impl Iterator<Item = &'a Second>) -> u32 {
    let mut all: Vec<u32> = seconds.flat_map(|second| second.took_us.iter().copied()).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SAMPLES_MAX, SECONDS, WriteRates, ZONES_MAX};

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rates_cover_the_last_half_minute() {
        let traffic = WriteRates::new("eu");
        let mut now = traffic.began;
        for second in 0..60_u32 {
            for _ in 0..10 {
                traffic.record("us", 2, MS * (second + 1), now);
                traffic.record("", 1, MS * 7, now);
            }
            now += SECOND;
        }
        let read = traffic.read(now);
        let [eu, us] = &read[..] else { panic!("two zones") };
        assert_eq!((eu.zone.as_str(), us.zone.as_str()), ("eu", "us"));
        // The newest second has only begun.
        assert_eq!((eu.writes_per_1000_s, eu.p50_us), (29 * 10 * 1000 / 30, 7_000));
        assert_eq!((us.p50_us, us.recent_p50_us), (46_000, 59_000));
        now += SECOND * u32::try_from(SECONDS).expect("small");
        assert!(traffic.read(now).is_empty());
    }

    #[test]
    fn counters_are_bounded() {
        let traffic = WriteRates::new("eu");
        for zone in 0..ZONES_MAX * 2 {
            for _ in 0..SAMPLES_MAX * 2 {
                traffic.record(&format!("z{zone}"), 1, MS, traffic.began);
            }
        }
        traffic.record(&"z".repeat(65), 1, MS, traffic.began + SECOND * 60);
        let zones = traffic.zones.lock();
        assert_eq!(zones.len(), ZONES_MAX);
        let samples = zones.values().flatten().map(|second| second.took_us.len());
        assert!(samples.max() <= Some(SAMPLES_MAX));
    }
}
