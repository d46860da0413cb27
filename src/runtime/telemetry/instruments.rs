//! Building blocks of metrics: gauges, histogram buckets, registration by name.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// A gauge of an id, a count or a size: never negative.
pub type IdGauge = Gauge<u64, AtomicU64>;

/// Upper bounds in seconds: what is written to disk or database, from tens of microseconds on.
pub(super) const STEP_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5,
];

/// Upper bounds in seconds: what crosses zones or waits for a frontier.
pub(super) const WAIT_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// Upper bounds of batch sizes.
pub(super) const BATCH_SIZES: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

pub(super) fn histogram(bounds: &[f64]) -> Histogram {
    Histogram::new(bounds.iter().copied())
}

/// Adds metrics to a registry under their names and help texts.
pub(super) struct Add<'a>(pub(super) &'a mut Registry);

impl Add<'_> {
    pub(super) fn metric(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0.register(name, help, metric.clone());
    }
}
