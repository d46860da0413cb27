//! Measurement of the emulator's own error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Largest lateness told apart; larger ones count as this.
const LATE_MICROS_MAX: u64 = 60_000_000;

/// Figures of an emulator since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that are open.
    pub open: u64,
    /// Payloads that were passed on.
    pub payloads: u64,
    /// Bytes that were passed on.
    pub bytes: u64,
    /// Half of the payloads left at most this late, in microseconds, for the emulator's own fault.
    pub late_p50_us: u64,
    /// 99 of 100 payloads left at most this late, in microseconds.
    pub late_p99_us: u64,
    /// The latest payload, in microseconds.
    pub late_max_us: u64,
}

/// Counts while the emulator runs.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) open: AtomicU64,
    bytes: AtomicU64,
    lateness: Mutex<Histogram<u64>>,
}

impl Counters {
    pub(super) fn new() -> Self {
        let lateness = Histogram::new_with_bounds(1, LATE_MICROS_MAX, 3);
        Self {
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lateness: Mutex::new(lateness.expect("these bounds are valid")),
        }
    }

    /// Notes a payload that left `late` after it was due.
    pub(super) fn passed(&self, bytes: usize, late: Duration) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.lateness.lock().saturating_record(micros);
    }

    pub(super) fn read(&self) -> Stats {
        let lateness = self.lateness.lock();
        Stats {
            connections: self.connections.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
            payloads: lateness.len(),
            bytes: self.bytes.load(Ordering::Relaxed),
            late_p50_us: lateness.value_at_quantile(0.5),
            late_p99_us: lateness.value_at_quantile(0.99),
            late_max_us: lateness.max(),
        }
    }
}
