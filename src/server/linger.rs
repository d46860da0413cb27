//! Adaptive linger: how long a queue is held so that more writes share one batch.
//!
//! A batch costs the same whatever it holds: messages, log flushes, one transaction in each zone. Under load,
//! closed-loop clients split into groups that take turns; holding the queue until the clients that were just
//! answered have sent again merges the groups.
//!
//! The rule, for each batch:
//!
//! - `hold = clamp(16 * (rtt_avg - 1.3 * rtt_min), 0, linger_max * share)`.
//! - The batch leaves when at most a tenth of queued and missing clients are missing, when `hold` has passed, or
//!   when the batch is full.
//! - `share` halves when a hold times out, and returns to 1 when a hold ends with every client back. Every 2 s one
//!   hold may use the full `linger_max`: clients that are out of step meet only in a hold as long as their round.
//! - Where `hold` is shorter than 0.5 ms, the queue is not held.
//!
//! A client is missing from its reply until its next write, for 50 ms at most. Open-loop clients return by chance
//! only; their holds time out, so `share` stays small.
//!
//! Pure: callers pass events and the time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Shortest hold: a shorter one is not worth a timer.
const HOLD_MIN: Duration = Duration::from_micros(500);

/// Multiple of the minimal round trip that the average may reach before the queue is held.
const RTT_TOLERANCE: f64 = 1.3;

/// Time after its reply for which a client counts as missing.
const REQUEST_RETURN_MAX: Duration = Duration::from_millis(50);

/// Replies remembered, one per batch; the oldest are dropped beyond that.
const REPLIES_MAX: usize = 256;

/// Hold per second of excess round trip.
const LINGER_GAIN: f64 = 16.0;

/// Fraction of queued and missing clients that may still be missing when the batch leaves.
const STRAGGLER_FRACTION: f64 = 0.1;

/// Factor of the linger share after a hold that timed out.
const BACKOFF_FACTOR: f64 = 0.5;

/// Time between two holds that may use the full linger whatever the share.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Weight of the newest round trip in the average.
const RTT_WEIGHT: f64 = 0.1;

/// Growth of the minimal round trip per batch, so that a path that became longer is learnt within minutes.
const MIN_RTT_DECAY: f64 = 1.000_02;

/// Decides when the queued writes leave as one batch.
#[derive(Debug)]
pub(crate) struct AdaptiveLinger {
    linger_max: Duration,
    /// Seconds; 0 before the first round trip.
    rtt_min: f64,
    rtt_avg: f64,
    /// Clients that were answered and have not sent again: when they were answered, and how many.
    missing: VecDeque<(Instant, usize)>,
    /// Start of the current hold.
    held_since: Option<Instant>,
    /// Whether a missing client expired during the current hold.
    has_expired: bool,
    /// Whether the hold that just ended brought back every missing client; `None` if it ended otherwise.
    all_returned: Option<bool>,
    /// Fraction of `linger_max` that a hold may use.
    linger_share: f64,
    /// End of the last probe that timed out.
    probed_at: Option<Instant>,
}

impl AdaptiveLinger {
    /// Holds a queue for `linger_max` at most.
    pub(crate) fn new(linger_max: Duration) -> Self {
        Self {
            linger_max,
            rtt_min: 0.0,
            rtt_avg: 0.0,
            missing: VecDeque::new(),
            held_since: None,
            has_expired: false,
            all_returned: None,
            linger_share: 1.0,
            probed_at: None,
        }
    }

    /// Returns until when to hold a queue of `queued` clients; `None`: send now.
    pub(crate) fn hold_until(&mut self, queued: usize, now: Instant) -> Option<Instant> {
        self.all_returned = None;
        let missing = self.missing(now);
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^52")]
        let are_all_back = missing as f64 <= (queued + missing) as f64 * STRAGGLER_FRACTION;
        let hold = self.hold(now);
        if are_all_back {
            self.all_returned = (self.held_since.is_some() && !self.has_expired).then_some(true);
            return None;
        }
        if hold < HOLD_MIN {
            return None;
        }
        if self.held_since.is_none() {
            (self.held_since, self.has_expired) = (Some(now), false);
        }
        let until = self.held_since.unwrap_or(now) + hold;
        if until > now {
            return Some(until);
        }
        self.all_returned = Some(false);
        None
    }

    /// Ends the current hold: the queue became empty without a batch, because its clients gave up.
    pub(crate) fn on_idle(&mut self) {
        self.held_since = None;
    }

    /// Counts a client as returned. It is taken for the one answered last, so that clients that never return age
    /// and expire.
    pub(crate) fn on_enqueue(&mut self) {
        if let Some((_, count)) = self.missing.back_mut() {
            *count -= 1;
            if *count == 0 {
                self.missing.pop_back();
            }
        }
    }

    /// Counts `clients` as missing from now on.
    pub(crate) fn on_reply(&mut self, clients: usize, now: Instant) {
        if self.missing.len() == REPLIES_MAX {
            self.missing.pop_front();
        }
        if clients > 0 {
            self.missing.push_back((now, clients));
        }
    }

    /// Number of clients that are missing at `now`.
    fn missing(&mut self, now: Instant) -> usize {
        while self.missing.pop_front_if(|(at, _)| *at + REQUEST_RETURN_MAX <= now).is_some() {
            self.has_expired = true;
        }
        self.missing.iter().map(|(_, count)| count).sum()
    }

    /// Records that a batch was sent, and learns from the hold that it ended.
    pub(crate) fn on_send(&mut self, now: Instant) {
        match self.all_returned.take() {
            Some(true) => self.linger_share = 1.0,
            Some(false) => {
                self.linger_share *= BACKOFF_FACTOR;
                if self.is_probe(now) {
                    self.probed_at = Some(now);
                }
            }
            None => {}
        }
        self.held_since = None;
    }

    /// Records the round trip of a batch.
    pub(crate) fn record_rtt(&mut self, round_trip: Duration) {
        let seconds = round_trip.as_secs_f64();
        if self.rtt_min == 0.0 {
            (self.rtt_min, self.rtt_avg) = (seconds, seconds);
        }
        self.rtt_min = (self.rtt_min * MIN_RTT_DECAY).min(seconds);
        self.rtt_avg += (seconds - self.rtt_avg) * RTT_WEIGHT;
    }

    /// Longest hold that may begin at `now`.
    fn hold(&self, now: Instant) -> Duration {
        let excess = self.rtt_avg - self.rtt_min * RTT_TOLERANCE;
        let share = if self.is_probe(now) { 1.0 } else { self.linger_share };
        let most = self.linger_max.as_secs_f64() * share;
        Duration::from_secs_f64((excess * LINGER_GAIN).clamp(0.0, most))
    }

    /// Whether a hold at `now` may use the full linger.
    fn is_probe(&self, now: Instant) -> bool {
        self.probed_at.is_none_or(|at| now - at >= PROBE_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{AdaptiveLinger, PROBE_INTERVAL, REQUEST_RETURN_MAX};

    const LINGER_MAX: Duration = Duration::from_millis(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Round trips grew from 1 to 8 ms, a batch is sent every 8 ms, and ten clients were just answered.
    fn busy() -> (AdaptiveLinger, Instant) {
        let (mut linger, mut now) = (AdaptiveLinger::new(LINGER_MAX), Instant::now());
        linger.record_rtt(ms(1));
        for _ in 0..100 {
            now += ms(8);
            linger.record_rtt(ms(8));
            linger.on_send(now);
        }
        linger.on_reply(10, now);
        (linger, now)
    }

    fn arrive(linger: &mut AdaptiveLinger, count: usize) {
        (0..count).for_each(|_| linger.on_enqueue());
    }

    #[test]
    fn queue_is_not_held_at_minimal_round_trips() {
        let (mut linger, now) = (AdaptiveLinger::new(LINGER_MAX), Instant::now());
        assert_eq!(linger.hold_until(1, now), None, "no round trip is known");
        for round_trip in [70, 71, 90, 80, 75] {
            linger.record_rtt(ms(round_trip));
            linger.on_reply(10, now);
            linger.on_send(now);
            assert_eq!(linger.hold_until(1, now), None, "a long path is no load");
        }
    }

    #[test]
    fn busy_queue_is_held_for_answered_clients_within_the_limit() {
        let (mut linger, now) = busy();
        arrive(&mut linger, 1);
        assert_eq!(linger.hold_until(1, now), Some(now + LINGER_MAX));
        arrive(&mut linger, 4);
        assert_eq!(
            linger.hold_until(5, now + ms(1)),
            Some(now + LINGER_MAX),
            "counted from the first"
        );
        arrive(&mut linger, 4);
        assert_eq!(linger.hold_until(9, now + ms(1)), None, "all but a straggler are here");
        linger.on_send(now + ms(1));
        arrive(&mut linger, 1);
        assert_eq!(linger.hold_until(1, now + ms(2)), None, "the others are in flight");
        linger.on_send(now + ms(2));
        linger.on_reply(10, now + ms(9));
        arrive(&mut linger, 5);
        assert!(linger.hold_until(5, now + ms(9)).is_some());
        assert_eq!(linger.hold_until(5, now + ms(9) + LINGER_MAX), None, "the hold timed out");
        linger.on_send(now + ms(9) + LINGER_MAX);
        linger.on_reply(5, now + ms(20));
        arrive(&mut linger, 1);
        let held =
            linger.hold_until(1, now + ms(20)).expect("a hold of half the length") - (now + ms(20));
        assert_eq!(held, LINGER_MAX / 2);
    }

    #[test]
    fn small_excess_round_trip_gives_a_short_hold() {
        let (mut linger, mut now) = (AdaptiveLinger::new(ms(15)), Instant::now());
        linger.record_rtt(ms(1));
        for _ in 0..200 {
            now += ms(8);
            linger.record_rtt(Duration::from_micros(1_400));
            linger.on_send(now);
        }
        linger.on_reply(10, now);
        let held = linger.hold_until(1, now).expect("0.1 ms too long") - now;
        assert!(
            held > Duration::from_micros(1_400) && held < Duration::from_micros(1_700),
            "{held:?}"
        );
    }

    #[test]
    fn open_loop_clients_are_hardly_held() {
        let (mut linger, mut now) = busy();
        let mut under_way = VecDeque::new();
        let (mut held, begun) = (Duration::ZERO, now);
        // 600 writes a second, whenever the ones before are answered.
        while now < begun + Duration::from_secs(60) {
            now += Duration::from_micros(1_667);
            while let Some((at, count)) = under_way.pop_front_if(|(at, _)| *at <= now) {
                linger.on_reply(count, at);
                linger.record_rtt(ms(8));
            }
            linger.on_enqueue();
            let mut waiting = 1;
            if let Some(until) = linger.hold_until(waiting, now) {
                held += until - now;
                let more = usize::try_from((until - now).as_micros() / 1_667).unwrap();
                arrive(&mut linger, more);
                (waiting, now) = (waiting + more, until);
                assert_eq!(linger.hold_until(waiting, now), None);
            }
            linger.on_send(now);
            under_way.push_back((now + ms(8), waiting));
        }
        let share = held.as_secs_f64() / (now - begun).as_secs_f64();
        assert!(share < 0.01, "{held:?} of {:?}", now - begun);
    }

    #[test]
    fn probe_merges_groups_that_are_out_of_step() {
        let (mut linger, mut now) = busy();
        for _ in 0..9 {
            linger.on_reply(10, now);
            now = linger.hold_until(1, now).unwrap_or(now + LINGER_MAX);
            linger.hold_until(1, now);
            linger.on_send(now);
        }
        linger.on_reply(10, now);
        assert_eq!(linger.hold_until(1, now), None, "the share is too small");
        now += PROBE_INTERVAL;
        linger.on_send(now);
        linger.on_reply(10, now);
        assert_eq!(linger.hold_until(1, now), Some(now + LINGER_MAX), "a probe");
        arrive(&mut linger, 10);
        assert_eq!(linger.hold_until(10, now + ms(4)), None, "all are back");
        linger.on_send(now + ms(4));
        linger.on_reply(10, now + ms(12));
        assert_eq!(
            linger.hold_until(1, now + ms(12)),
            Some(now + ms(12) + LINGER_MAX),
            "the share is full again"
        );
    }

    #[test]
    fn departed_clients_expire_while_others_return() {
        let (mut linger, start) = busy();
        assert!(linger.hold_until(1, start).is_some());
        linger.on_send(start);
        // Ten never come back; three do, again and again.
        let mut now = start;
        while now < start + REQUEST_RETURN_MAX {
            now += ms(5);
            linger.on_reply(3, now);
            arrive(&mut linger, 3);
            linger.on_send(now);
        }
        assert_eq!(linger.missing(now), 0);
    }

    #[test]
    fn expired_client_is_not_counted_as_returned() {
        let (mut linger, now) = busy();
        linger.linger_share = 0.8;
        assert!(linger.hold_until(1, now + REQUEST_RETURN_MAX - ms(4)).is_some());
        assert_eq!(linger.hold_until(1, now + REQUEST_RETURN_MAX), None, "all have expired");
        linger.on_send(now + REQUEST_RETURN_MAX);
        assert!(linger.linger_share <= 0.8, "{}", linger.linger_share);
    }

    #[test]
    fn emptied_queue_ends_its_hold() {
        let (mut linger, now) = busy();
        assert!(linger.hold_until(1, now).is_some());
        linger.on_idle();
        let later = now + LINGER_MAX * 2;
        assert!(
            linger.hold_until(1, later).is_some_and(|until| until > later),
            "a hold of its own"
        );
    }

    #[test]
    fn remembered_replies_are_bounded() {
        let (mut linger, now) = busy();
        (0..1_000).for_each(|_| linger.on_reply(1, now));
        assert_eq!(linger.missing(now), super::REPLIES_MAX);
        arrive(&mut linger, 1_000);
        assert_eq!(linger.missing(now), 0);
    }

    #[test]
    fn longer_path_is_learnt_as_the_new_minimum() {
        let (mut linger, now) = busy();
        (0..200_000).for_each(|_| linger.record_rtt(ms(8)));
        assert_eq!(linger.hold_until(1, now), None);
    }
}
