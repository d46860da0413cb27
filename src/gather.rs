//! When a batch leaves: at once where nothing queues, a little later where the machine is busy, so that
//! those who were answered last come along.
//!
//! Every batch costs the whole parade the same, however many writes are in it: messages, flushes to
//! disk and a transaction in each zone. Clients that wait for answers fall into groups, one under way
//! while the next one queues, and stay in them. Where round trips take much longer than they could,
//! which is when something queues behind the costs of batches, waiting for all of them makes one batch
//! of two or three, and everybody is served sooner.
//!
//! Clients that do not wait for each other's answers come along by chance only. A wait that ends by time
//! shows that, and the next one is half as long: what is worth waiting for is found out by waiting.
//!
//! Pure: told of what happens, and of the time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// With fewer writes a second nothing is kept: hardly any would come along, and each would be late.
/// Low enough that a node which small batches have slowed down still gathers, and gets out of that.
const WRITES_PER_SECOND_MIN: f64 = 500.0;

/// Seconds over which writes are counted.
const RATE_SECONDS: f64 = 0.1;

/// Shorter than this it is not worth a timer.
const LINGER_MIN: Duration = Duration::from_micros(500);

/// How much longer than the shortest the usual round trip may be before anything is kept.
const SLACK: f64 = 1.3;

/// Departures remembered to know how many are about.
const DEPARTURES: usize = 32;

/// How many times what the usual round trip takes too long something is kept.
const PATIENCE: f64 = 16.0;

/// Share of those about that need not be waited for.
const STRAGGLERS: f64 = 0.1;

/// What is left of the trust in waiting after a wait that ended by time, and how much of it comes back in
/// a second.
const DOUBT: f64 = 0.5;
const REGAIN: f64 = 0.05;

/// Weight of the newest round trip in the usual one.
const NEWEST: f64 = 0.1;

/// Growth of the shortest round trip, by batch: a way that became longer is known after minutes.
const FORGETTING: f64 = 1.000_02;

/// Decides when what waits leaves together.
#[derive(Debug)]
pub(crate) struct Gather {
    /// Longest that something is kept.
    linger_max: Duration,
    /// Seconds; 0 while there was none.
    shortest: f64,
    usual: f64,
    /// How many waited or were under way at the last departures.
    about: VecDeque<usize>,
    /// When what waits began to be kept.
    since: Option<Instant>,
    /// Whether the wait that is over brought all who are about; `None`: it ended for another reason.
    was_worth_it: Option<bool>,
    /// Share of the longest wait that is allowed now.
    trust: f64,
    /// Writes a second, and when the last of them left.
    rate: f64,
    left_at: Option<Instant>,
}

impl Gather {
    /// Keeps nothing for longer than `linger_max`.
    pub(crate) fn new(linger_max: Duration) -> Self {
        Self {
            linger_max,
            shortest: 0.0,
            usual: 0.0,
            about: VecDeque::with_capacity(DEPARTURES),
            since: None,
            was_worth_it: None,
            trust: 1.0,
            rate: 0.0,
            left_at: None,
        }
    }

    /// Until when what waits should be kept; `None`: it should leave now.
    pub(crate) fn keep(&mut self, waiting: usize, now: Instant) -> Option<Instant> {
        self.was_worth_it = None;
        let about = self.about.iter().max().copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^52")]
        let is_all = waiting as f64 >= about as f64 * (1.0 - STRAGGLERS);
        let linger = self.linger();
        if is_all {
            self.was_worth_it = self.since.map(|_| true);
            return None;
        }
        if linger < LINGER_MIN || self.rate(now) < WRITES_PER_SECOND_MIN {
            return None;
        }
        let until = *self.since.get_or_insert(now) + linger;
        if until > now {
            return Some(until);
        }
        self.was_worth_it = Some(false);
        None
    }

    /// So many writes left when so many of what is counted waited, were under way, or had just come
    /// back.
    pub(crate) fn left(&mut self, about: usize, writes: usize, now: Instant) {
        let age = self.age(now);
        match self.was_worth_it.take() {
            Some(true) => self.trust = 1.0,
            Some(false) => self.trust *= DOUBT,
            None => {}
        }
        self.trust = (self.trust + age.min(1.0) * REGAIN).min(1.0);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let writes = writes as f64;
        self.rate = self.rate(now) + writes / RATE_SECONDS;
        self.left_at = Some(now);
        if self.about.len() == DEPARTURES {
            self.about.pop_front();
        }
        self.about.push_back(about);
        self.since = None;
    }

    /// Something came back after `round_trip`.
    pub(crate) fn back(&mut self, round_trip: Duration) {
        let seconds = round_trip.as_secs_f64();
        if self.shortest == 0.0 {
            (self.shortest, self.usual) = (seconds, seconds);
        }
        self.shortest = (self.shortest * FORGETTING).min(seconds);
        self.usual += (seconds - self.usual) * NEWEST;
    }

    fn linger(&self) -> Duration {
        let excess = self.usual - self.shortest * SLACK;
        let most = self.linger_max.as_secs_f64() * self.trust;
        Duration::from_secs_f64((excess * PATIENCE).clamp(0.0, most))
    }

    /// Seconds since something left; 0 while nothing has.
    fn age(&self, now: Instant) -> f64 {
        self.left_at.map_or(0.0, |at| (now - at).as_secs_f64())
    }

    /// Writes a second that left, by now.
    fn rate(&self, now: Instant) -> f64 {
        self.rate * (-self.age(now) / RATE_SECONDS).exp()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{DEPARTURES, Gather};

    const LINGER_MAX: Duration = Duration::from_millis(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Ten are about, round trips of 1 ms have become such of 8 ms, and so many writes leave every 8 ms.
    fn after(writes: usize) -> (Gather, Instant) {
        let (mut gather, mut now) = (Gather::new(LINGER_MAX), Instant::now());
        gather.back(ms(1));
        for _ in 0..100 {
            now += ms(8);
            gather.back(ms(8));
            gather.left(10, writes, now);
        }
        (gather, now)
    }

    fn busy() -> (Gather, Instant) {
        after(100)
    }

    #[test]
    fn nothing_is_kept_where_round_trips_are_as_short_as_they_can_be() {
        let (mut gather, now) = (Gather::new(LINGER_MAX), Instant::now());
        assert_eq!(gather.keep(1, now), None, "nothing is known yet");
        for round_trip in [70, 71, 90, 80, 75] {
            gather.back(ms(round_trip));
            gather.left(10, 1_000, now);
            assert_eq!(gather.keep(1, now), None, "far away is not busy");
        }
    }

    #[test]
    fn nothing_is_kept_where_hardly_anything_would_come_along() {
        let (mut gather, now) = after(3);
        assert_eq!(gather.keep(1, now), None, "375 writes a second");
    }

    #[test]
    fn where_it_is_busy_the_others_are_waited_for_but_not_for_long() {
        let (mut gather, now) = busy();
        assert_eq!(gather.keep(1, now), Some(now + LINGER_MAX));
        assert_eq!(gather.keep(5, now + ms(1)), Some(now + LINGER_MAX), "counted from the first");
        assert_eq!(gather.keep(9, now + ms(1)), None, "all but a straggler are here");
        assert_eq!(gather.keep(9, now + LINGER_MAX), None);
        gather.left(9, 100, now + LINGER_MAX);
        assert_eq!(gather.keep(1, now + ms(9)), Some(now + ms(9) + LINGER_MAX));
        assert_eq!(gather.keep(5, now + ms(9) + LINGER_MAX), None, "they do not come");
        gather.left(5, 100, now + ms(9) + LINGER_MAX);
        let kept = gather.keep(1, now + ms(20)).expect("it tries again") - (now + ms(20));
        assert!(kept < LINGER_MAX * 6 / 10, "{kept:?}");
    }

    #[test]
    fn a_little_too_long_is_a_little_patience() {
        let (mut gather, mut now) = (Gather::new(ms(15)), Instant::now());
        gather.back(ms(1));
        for _ in 0..200 {
            now += ms(8);
            gather.back(Duration::from_micros(1_400));
            gather.left(10, 100, now);
        }
        let kept = gather.keep(1, now).expect("0.1 ms too long") - now;
        assert!(
            kept > Duration::from_micros(1_400) && kept < Duration::from_micros(1_700),
            "{kept:?}"
        );
    }

    #[test]
    fn where_nobody_comes_along_hardly_anything_is_kept_any_longer() {
        let (mut gather, mut now) = busy();
        let mut kept = Duration::ZERO;
        let begun = now;
        // 600 writes a second whose clients wait for nothing.
        for _ in 0..2_000 {
            now += Duration::from_micros(1_667);
            let mut waiting = 1;
            if let Some(until) = gather.keep(waiting, now) {
                kept += until - now;
                waiting += usize::try_from((until - now).as_micros() / 1_667).unwrap();
                now = until;
                assert_eq!(gather.keep(waiting, now), None);
            }
            gather.left(10, waiting, now);
            gather.back(ms(8));
        }
        let share = kept.as_secs_f64() / (now - begun).as_secs_f64();
        assert!(share < 0.02, "{kept:?} of {:?}", now - begun);
        // Clients that do wait are there again.
        for _ in 0..40 {
            now += ms(1_000);
            (0..10).for_each(|_| gather.left(10, 100, now));
        }
        assert_eq!(gather.keep(1, now), Some(now + LINGER_MAX));
        assert_eq!(gather.keep(10, now + ms(1)), None);
    }

    #[test]
    fn after_a_pause_nothing_is_kept() {
        let (mut gather, now) = busy();
        assert!(gather.keep(1, now + ms(10)).is_some());
        gather.since = None;
        assert_eq!(gather.keep(1, now + ms(2_000)), None, "the writes of before do not count");
    }

    #[test]
    fn who_has_gone_is_waited_for_only_for_a_while() {
        let (mut gather, now) = busy();
        (0..DEPARTURES).for_each(|_| gather.left(1, 1, now));
        assert_eq!(gather.keep(1, now), None);
    }

    #[test]
    fn a_way_that_became_longer_is_not_taken_for_a_busy_machine_for_ever() {
        let (mut gather, now) = busy();
        (0..200_000).for_each(|_| gather.back(ms(8)));
        assert_eq!(gather.keep(1, now), None);
    }
}
