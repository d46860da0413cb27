//! When a batch leaves: at once where nothing queues, a little later where the machine is busy, so that
//! those who were answered last come along.
//!
//! Every batch costs the whole parade the same, however many writes are in it: messages, flushes to
//! disk and a transaction in each zone. Clients that wait for answers fall into groups, one under way
//! while the next one queues, and stay in them. Where round trips take much longer than they could,
//! which is when something queues behind the costs of batches, waiting for all of them makes one batch
//! of two or three, and everybody is served sooner.
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
    /// Writes a second, and when the last of them left.
    rate: f64,
    left_at: Option<Instant>,
}

impl Gather {
    /// Keeps nothing for longer than `linger_max`.
    pub(crate) fn new(linger_max: Duration) -> Self {
        let about = VecDeque::with_capacity(DEPARTURES);
        Self { linger_max, shortest: 0.0, usual: 0.0, about, since: None, rate: 0.0, left_at: None }
    }

    /// Until when what waits should be kept; `None`: it should leave now.
    pub(crate) fn keep(&mut self, waiting: usize, now: Instant) -> Option<Instant> {
        let linger = self.linger();
        let about = self.about.iter().max().copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^52")]
        let is_all = waiting as f64 >= about as f64 * (1.0 - STRAGGLERS);
        if is_all || linger < LINGER_MIN || self.rate < WRITES_PER_SECOND_MIN {
            return None;
        }
        let until = *self.since.get_or_insert(now) + linger;
        (until > now).then_some(until)
    }

    /// So many writes left when so many of what is counted waited, were under way, or had just come
    /// back.
    pub(crate) fn left(&mut self, about: usize, writes: usize, now: Instant) {
        let age = self.left_at.replace(now).map_or(0.0, |at| (now - at).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let writes = writes as f64;
        self.rate = self.rate * (-age / RATE_SECONDS).exp() + writes / RATE_SECONDS;
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
        Duration::from_secs_f64((excess * PATIENCE).clamp(0.0, self.linger_max.as_secs_f64()))
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
        assert_eq!(gather.keep(5, now + LINGER_MAX), None);
        gather.left(5, 100, now);
        assert_eq!(gather.keep(1, now + ms(9)), Some(now + ms(9) + LINGER_MAX));
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
