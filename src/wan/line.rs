//! One direction between two zones, shared by all connections that use it, as a pure engine: the
//! input is bytes and a time, the output is the time of their arrival.
//!
//! Invariants: the same seed and the same calls give the same results; no byte arrives earlier than
//! one delay after it was sent. The engine does no I/O and reads no clock.

use std::time::{Duration, Instant};

use pghc_api::id::ZoneName;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::conditions::{Bandwidth, Change, Conditions, Jitter};

/// Payload of a TCP segment on an ordinary path; loss strikes segments.
const SEGMENT_BYTES: usize = 1_448;

/// Shortest time after which TCP retransmits an unacknowledged segment.
pub const RETRANSMISSION_MIN: Duration = Duration::from_millis(200);

/// Times one segment may be lost in a row; each doubles the wait.
const LOSSES_MAX: u32 = 6;

/// Longest time that bytes wait for bandwidth. A sender of more is held, as by a full router.
pub const QUEUE_MAX: Duration = Duration::from_millis(100);

/// How a cut treats connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// All bytes are held without notice; bytes in flight arrive after the healing.
    Silence,
    /// Connections break at once and new ones are refused.
    Reset,
}

/// Current state of one direction between two zones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineView {
    /// Where it begins.
    pub from: ZoneName,
    /// Where it ends.
    pub to: ZoneName,
    /// One-way delay in milliseconds.
    pub delay_ms: f64,
    /// Random addition to the delay.
    pub jitter: Jitter,
    /// Share of lost segments.
    pub loss: f64,
    /// Bits a second.
    pub bandwidth: Bandwidth,
    /// How it is cut, if it is.
    pub cut: Option<How>,
}

/// All conditions of a line, to make another the same; its cut is none of them.
impl From<&LineView> for Change {
    fn from(line: &LineView) -> Self {
        Self {
            delay_ms: Some(line.delay_ms),
            jitter: Some(line.jitter),
            loss: Some(line.loss),
            bandwidth: Some(line.bandwidth),
        }
    }
}

/// One direction between two zones.
#[derive(Debug)]
pub struct Line {
    conditions: Conditions,
    random: StdRng,
    /// The bandwidth is used up until then.
    busy_until: Option<Instant>,
    cut: Option<How>,
}

impl Line {
    /// A line under these conditions; `seed` throws its dice.
    #[must_use]
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self { conditions, random: StdRng::seed_from_u64(seed), busy_until: None, cut: None }
    }

    /// The current conditions.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// Changes what it does to everything that goes in from now on.
    pub fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Cuts it, or heals it.
    pub fn set_cut(&mut self, cut: Option<How>) {
        self.cut = cut;
    }

    /// How it is cut, if it is.
    #[must_use]
    pub fn cut(&self) -> Option<How> {
        self.cut
    }

    /// How long TCP waits before it sends again on this line. The round trip is taken to be twice
    /// this direction's delay.
    #[must_use]
    pub fn retransmission(&self) -> Duration {
        RETRANSMISSION_MIN.max(4 * self.conditions.delay)
    }

    /// Until when a sender is held because too much waits for bandwidth; `None`: not at all.
    #[must_use]
    pub fn full_until(&self, now: Instant) -> Option<Instant> {
        let until = self.busy_until?.checked_sub(QUEUE_MAX)?;
        (until > now).then_some(until)
    }

    /// Takes `bytes` at `now` and answers when they come out. `follows` says that more of the same
    /// connection is under way, so that a loss is noticed after a round trip, not by time-out.
    pub fn carry(&mut self, now: Instant, bytes: usize, follows: bool) -> Instant {
        let sent = self.transmit(now, bytes);
        sent + self.conditions.delay + self.jitter() + self.stall(bytes, follows)
    }

    /// When the last bit has left the sender.
    fn transmit(&mut self, now: Instant, bytes: usize) -> Instant {
        let Bandwidth::BitsPerSecond(rate) = self.conditions.bandwidth else {
            self.busy_until = None;
            return now;
        };
        let seconds = bytes as f64 * 8.0 / rate as f64;
        let begin = self.busy_until.map_or(now, |busy| busy.max(now));
        let end = begin + Duration::from_secs_f64(seconds);
        self.busy_until = Some(end);
        end
    }

    fn jitter(&mut self) -> Duration {
        match self.conditions.jitter {
            Jitter::None => Duration::ZERO,
            Jitter::Uniform(most) => most.mul_f64(self.random.random_range(0.0..=1.0)),
            Jitter::LogNormal(median) => {
                // Box and Muller; 1 - x is never 0, so its logarithm is finite.
                let radius = (-2.0 * (1.0 - self.random.random_range(0.0..1.0_f64)).ln()).sqrt();
                let angle = std::f64::consts::TAU * self.random.random_range(0.0..1.0_f64);
                median.mul_f64((radius * angle.cos()).exp())
            }
        }
    }

    /// Delay of the stream caused by losses among the segments of `bytes`.
    fn stall(&mut self, bytes: usize, follows: bool) -> Duration {
        let loss = self.conditions.loss;
        if loss <= 0.0 {
            return Duration::ZERO;
        }
        let segments = bytes.div_ceil(SEGMENT_BYTES).max(1);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let any = 1.0 - (1.0 - loss).powf(segments as f64);
        if !self.random.random_bool(any.clamp(0.0, 1.0)) {
            return Duration::ZERO;
        }
        let round_trip = 2 * self.conditions.delay;
        let mut stall = if follows { round_trip } else { self.retransmission() };
        // A retransmitted segment may be lost again; only the time-out recovers then.
        let mut wait = self.retransmission();
        for _ in 0..LOSSES_MAX {
            if !self.random.random_bool(loss) {
                break;
            }
            stall += wait;
            wait *= 2;
        }
        stall
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Line, QUEUE_MAX, RETRANSMISSION_MIN};
    use crate::conditions::{Bandwidth, Conditions, Jitter};

    const MS: Duration = Duration::from_millis(1);

    fn conditions() -> Conditions {
        Conditions { delay: 10 * MS, ..Conditions::default() }
    }

    fn delays(conditions: Conditions, seed: u64, follows: bool) -> Vec<Duration> {
        let start = Instant::now();
        let mut line = Line::new(conditions, seed);
        (0..10_000).map(|_| line.carry(start, 100, follows) - start).collect()
    }

    #[test]
    fn jitter_has_requested_shape_by_seed() {
        let uniform = Conditions { jitter: Jitter::Uniform(4 * MS), ..conditions() };
        let mut got = delays(uniform, 7, false);
        assert_eq!(got, delays(uniform, 7, false));
        assert_ne!(got, delays(uniform, 8, false));
        got.sort();
        assert!(got[0] >= 10 * MS && got[9_999] <= 14 * MS, "{:?} {:?}", got[0], got[9_999]);
        assert!(got[5_000] > 11_800 * MS / 1_000 && got[5_000] < 12_200 * MS / 1_000);
        let normal = Conditions { jitter: Jitter::LogNormal(MS), ..conditions() };
        let mut got = delays(normal, 7, false);
        got.sort();
        let median = got[5_000].as_secs_f64() - 0.010;
        assert!((0.00094..0.00106).contains(&median), "median {median}");
        // e^2.326 of the median at the 99th percentile.
        let high = got[9_900].as_secs_f64() - 0.010;
        assert!((0.009..0.0118).contains(&high), "p99 {high}");
    }

    #[test]
    fn loss_costs_round_trip_or_timeout_at_stream_end() {
        let lossy = Conditions { loss: 0.1, ..conditions() };
        let lost = |follows| {
            let got = delays(lossy, 7, follows);
            let all: Vec<_> = got.into_iter().filter(|delay| *delay > 10 * MS).collect();
            (all.len(), all.into_iter().min().expect("a loss among ten thousand"))
        };
        let ((inside, least), (tail, longest)) = (lost(true), lost(false));
        assert!((900..1_100).contains(&inside) && (900..1_100).contains(&tail), "{inside} {tail}");
        assert_eq!((least, longest), (30 * MS, 10 * MS + RETRANSMISSION_MIN));
        assert!(delays(conditions(), 7, false).iter().all(|delay| *delay == 10 * MS));
    }

    #[test]
    fn sender_is_held_when_bandwidth_queue_is_long() {
        let start = Instant::now();
        let narrow = Bandwidth::BitsPerSecond(8_000_000);
        let mut line = Line::new(Conditions { bandwidth: narrow, ..conditions() }, 1);
        assert_eq!(line.carry(start, 1_000, false), start + 11 * MS);
        assert_eq!(line.carry(start, 2_000, false), start + 13 * MS, "behind the first");
        assert_eq!(line.full_until(start), None);
        line.carry(start, 150_000, false);
        assert_eq!(line.full_until(start), Some(start + 153 * MS - QUEUE_MAX));
        assert_eq!(line.full_until(start + 53 * MS), None);
        let later = start + 500 * MS;
        assert_eq!(line.carry(later, 1_000, false), later + 11 * MS, "an idle line is free");
    }
}
