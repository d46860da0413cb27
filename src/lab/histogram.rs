//! Latencies: 1 us to 1 h with three significant digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency told apart, in microseconds; longer ones count as this.
const MICROS_MAX: u64 = 3_600_000_000;

/// A set of latencies, kept in bounded memory.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("these bounds are valid"))
    }
}

impl Latencies {
    /// Adds one; shorter than 1 us counts as 1 us.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// Adds all of another set.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The percentiles of a report.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let ms = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1e3;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        Summary { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: ms(self.0.max()) }
    }
}

/// Percentiles in milliseconds; all 0 when there was nothing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Half were not slower.
    pub p50_ms: f64,
    /// 90 of 100 were not slower.
    pub p90_ms: f64,
    /// 99 of 100 were not slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Latencies, Summary};

    #[test]
    fn percentile_is_within_a_thousandth_after_merge() {
        let (mut odd, mut even) = (Latencies::default(), Latencies::default());
        for ms in 1..=1000 {
            if ms % 2 == 0 { &mut even } else { &mut odd }.record(Duration::from_millis(ms));
        }
        odd.merge(&even);
        assert_eq!(odd.count(), 1000);
        let summary = odd.summary();
        for (got, wanted) in
            [(summary.p50_ms, 500.0), (summary.p90_ms, 900.0), (summary.p99_ms, 990.0)]
        {
            assert!((got / wanted - 1.0_f64).abs() < 2e-3, "{got} is not {wanted}");
        }
        assert_eq!(Latencies::default().summary(), Summary::default());
    }

    #[test]
    fn value_out_of_range_counts_as_nearest_bound() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        let summary = latencies.summary();
        assert!((summary.p50_ms - 0.001).abs() < 1e-6, "{summary:?}");
        assert!((summary.max_ms / 3.6e6 - 1.0).abs() < 2e-3, "{summary:?}");
    }
}
