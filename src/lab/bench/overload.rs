//! Ten times more than pghc can take: what gets through, and how soon latency is back afterwards.
//!
//! A few steady clients run all the time; only their latency is judged. The overload is an open
//! loop with bounded connections: writes due while all connections wait are dropped and counted, as
//! by a client that gives up.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::closed::Window;
use super::load;
use super::measure::Measure;
use super::open::{Crowd, SLOT, Seen, Slot};
use super::sample::{Curve, Sample};
use super::zones::per_second;

/// How many times the peak the crowd asks for.
const TIMES: f64 = 10.0;
/// Connections of the crowd to each zone.
const CONNECTIONS: usize = 512;
/// Writes a second of the steady clients over all zones: enough for a median in each slot.
const STEADY_RATE: f64 = 120.0;
/// Connections of the steady clients to each zone.
const STEADY_CONNECTIONS: usize = 32;
/// How long the steady clients run before anything else, to know what is usual.
const BEFORE: Duration = Duration::from_secs(1);
/// How long they are watched afterwards.
const AFTER: Duration = Duration::from_secs(6);

/// Latency counts as recovered when a slot's median is at most this multiple of the usual median …
const BACK_TIMES: f64 = 2.0;
/// … plus this number of milliseconds, because twice a very short time is soon reached by chance.
const BACK_MS: f64 = 2.0;

/// Measures the peak, exceeds it, and watches the recovery. The rate is the goodput: writes
/// acknowledged while the crowd was there and warm; the latency is the crowd's. Figures: `peak_per_second`, `offered_per_second`,
/// `recovery_s` (the whole time watched when latency never came back).
///
/// # Errors
/// When a node cannot be reached.
pub(super) async fn overload(measure: &Measure<'_>) -> anyhow::Result<Sample> {
    let (target, bytes) = (measure.target, measure.payload_bytes);
    let stop = CancellationToken::new();
    let loads = 2 * (measure.warm_up + measure.length);
    // An answer may take half a minute; then the steady clients must still be there.
    let longest = BEFORE + loads + AFTER + Duration::from_secs(90);
    let steady = Crowd {
        rate: STEADY_RATE,
        connections: STEADY_CONNECTIONS,
        length: longest,
        warm_up: Duration::ZERO,
        payload_bytes: bytes,
    };
    let start = Instant::now();
    let steps = async {
        tokio::time::sleep(BEFORE).await;
        let peak = load::single(target, bytes, Window::after(measure.warm_up, measure.length));
        let peak = peak.await?.rate();
        let crowd = Crowd {
            rate: (TIMES * peak).max(1.0),
            connections: CONNECTIONS,
            length: measure.warm_up + measure.length,
            warm_up: measure.warm_up,
            payload_bytes: bytes,
        };
        let begun = start.elapsed();
        let seen = crowd.drive(target, &CancellationToken::new()).await?;
        // The crowd's last answers may come later; what counts is when it stopped sending.
        let ended = begun + crowd.length;
        tokio::time::sleep(AFTER.saturating_sub(start.elapsed().saturating_sub(ended))).await;
        anyhow::Ok((peak, seen, begun, ended))
    };
    let steps = async {
        let done = steps.await;
        stop.cancel();
        done
    };
    let (seen, steps) = tokio::join!(steady.drive(target, &stop), steps);
    let (seen, (peak, crowd, begun, ended)) = (seen?, steps?);
    let planned_for = measure.warm_up + measure.length;
    let mut sample = Sample::of(crowd.tally);
    sample.figure("peak_per_second", peak);
    sample.figure("offered_per_second", per_second(crowd.planned, planned_for));
    sample.figure("not_sent_per_second", per_second(crowd.dropped, planned_for));
    sample.figure("recovery_s", recovery(&seen.slots, ended));
    sample.curves.push(curve(&seen, begun, ended));
    Ok(sample)
}

/// Seconds from `ended` until every later slot is as usual again; the usual is the median of the
/// slots before the load. A slot in which a write failed is not as usual, nor is one without any.
fn recovery(slots: &[Slot], ended: Duration) -> f64 {
    let median = |slot: &Slot| slot.latencies.summary().p50_ms;
    let before = slots.iter().take(place(BEFORE)).filter(|slot| slot.latencies.count() > 0);
    let usual = before.map(median).fold(f64::INFINITY, f64::min);
    let limit = (usual * BACK_TIMES).max(usual + BACK_MS);
    let is_back =
        |slot: &Slot| slot.failures == 0 && slot.latencies.count() > 0 && median(slot) <= limit;
    // The last slot is cut short by the end of the run.
    let watched = &slots[..slots.len().saturating_sub(1)];
    let last_bad = watched.iter().rposition(|slot| !is_back(slot));
    let back = last_bad.map_or(0.0, |bad| SLOT.as_secs_f64() * index(bad + 1));
    (back - ended.as_secs_f64()).max(0.0)
}

fn place(time: Duration) -> usize {
    usize::try_from(time.as_nanos() / SLOT.as_nanos()).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "slots of one run are few")]
fn index(slot: usize) -> f64 {
    slot as f64
}

fn curve(seen: &Seen, begun: Duration, ended: Duration) -> Curve {
    let point = |(place, slot): (usize, &Slot)| {
        (SLOT.as_secs_f64() * index(place), slot.latencies.summary().p50_ms)
    };
    let (from, to) = (begun.as_secs_f64(), ended.as_secs_f64());
    Curve {
        name: format!(
            "median latency of steady clients; the crowd is there from {from:.1} s to {to:.1} s"
        ),
        unit: "ms",
        points: seen.slots.iter().enumerate().map(point).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SLOT, recovery};
    use crate::bench::open::Slot;

    /// Slots of 250 ms with these median latencies in milliseconds; 0: a failed write.
    fn check(medians: &[u64], ended: Duration) -> f64 {
        let slot = |ms: &u64| {
            let mut slot = Slot::default();
            match ms {
                0 => slot.failures = 1,
                ms => slot.latencies.record(Duration::from_millis(*ms)),
            }
            slot
        };
        recovery(&medians.iter().map(slot).collect::<Vec<_>>(), ended)
    }

    #[test]
    fn latency_is_back_when_no_later_slot_is_slow_or_refused() {
        let ended = 6 * SLOT;
        // Four slots before, two of load, then the rest; the last slot is never looked at.
        assert!(check(&[2, 2, 2, 2, 90, 90, 3, 3, 3, 99], ended).abs() < 1e-9);
        assert!((check(&[2, 2, 2, 2, 90, 90, 50, 3, 3, 99], ended) - 0.25).abs() < 1e-9);
        assert!((check(&[2, 2, 2, 2, 90, 90, 3, 3, 0, 3, 99], ended) - 0.75).abs() < 1e-9);
        assert!((check(&[2, 2, 2, 2, 90, 90, 50, 50, 50, 99], ended) - 0.75).abs() < 1e-9);
    }
}
