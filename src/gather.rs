//! When a batch leaves: at once where nothing queues, a little later where the machine is busy, so that
//! those who were answered last come along.
//!
//! Every batch costs the whole parade the same, however many writes are in it: messages, flushes to
//! disk and a transaction in each zone. Clients that wait for answers fall into groups, one under way
//! while the next one queues, and stay in them. Where round trips take much longer than they could,
//! which is when something queues behind the costs of batches, waiting for all of them makes one batch
//! of two or three, and everybody is served sooner.
//!
//! Who was answered comes back with something new before long, if it waits for answers; who is under way
//! does not. So what waits is kept for those who were answered and have not come yet.
//!
//! Clients that do not wait for each other's answers come along by chance only. A wait that ends by time
//! shows that, and the next one is half as long; every two seconds one may take its full time again: what
//! is worth waiting for is found out by waiting.
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

/// So long after the answer nobody is expected back any more.
const BACK_MAX: Duration = Duration::from_millis(50);

/// Answers remembered, each of one batch; of more the oldest are forgotten.
const ANSWERS_MAX: usize = 256;

/// How many times what the usual round trip takes too long something is kept.
const PATIENCE: f64 = 16.0;

/// Share of those who wait and who are expected that need not be waited for.
const STRAGGLERS: f64 = 0.1;

/// What is left of the trust in waiting after a wait that ended by time.
const DOUBT: f64 = 0.5;

/// So long after the last one a wait may take its full time again, whatever the trust: out of step with
/// each other, groups of clients meet only in a wait as long as their round.
const TRIAL: Duration = Duration::from_secs(2);

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
    /// Who was answered and has not come back: when, and how many.
    expected: VecDeque<(Instant, usize)>,
    /// When what waits began to be kept.
    since: Option<Instant>,
    /// Somebody was forgotten since then.
    has_forgotten: bool,
    /// Whether the wait that is over brought all who were expected; `None`: it ended for another reason.
    was_worth_it: Option<bool>,
    /// Share of the longest wait that is allowed now.
    trust: f64,
    /// When the last such trial ended by time.
    tried_at: Option<Instant>,
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
            expected: VecDeque::new(),
            since: None,
            has_forgotten: false,
            was_worth_it: None,
            trust: 1.0,
            tried_at: None,
            rate: 0.0,
            left_at: None,
        }
    }

    /// Until when to keep what waits, so much of it; `None`: it should leave now.
    pub(crate) fn keep(&mut self, waiting: usize, now: Instant) -> Option<Instant> {
        self.was_worth_it = None;
        let expected = self.expected(now);
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^52")]
        let is_all = expected as f64 <= (waiting + expected) as f64 * STRAGGLERS;
        let linger = self.linger(now);
        if is_all {
            self.was_worth_it = (self.since.is_some() && !self.has_forgotten).then_some(true);
            return None;
        }
        if linger < LINGER_MIN || self.rate(now) < WRITES_PER_SECOND_MIN {
            return None;
        }
        if self.since.is_none() {
            (self.since, self.has_forgotten) = (Some(now), false);
        }
        let until = self.since.unwrap_or(now) + linger;
        if until > now {
            return Some(until);
        }
        self.was_worth_it = Some(false);
        None
    }

    /// Nothing waits any more: what did was given up.
    pub(crate) fn emptied(&mut self) {
        self.since = None;
    }

    /// Somebody came with something new; counted as the one answered last, so that those who never come
    /// back grow old and are forgotten.
    pub(crate) fn arrived(&mut self) {
        if let Some((_, count)) = self.expected.back_mut() {
            *count -= 1;
            if *count == 0 {
                self.expected.pop_back();
            }
        }
    }

    /// So many were answered.
    pub(crate) fn answered(&mut self, count: usize, now: Instant) {
        if self.expected.len() == ANSWERS_MAX {
            self.expected.pop_front();
        }
        if count > 0 {
            self.expected.push_back((now, count));
        }
    }

    /// How many of those who were answered have not come back and still may.
    fn expected(&mut self, now: Instant) -> usize {
        while self.expected.pop_front_if(|(at, _)| *at + BACK_MAX <= now).is_some() {
            self.has_forgotten = true;
        }
        self.expected.iter().map(|(_, count)| count).sum()
    }

    /// So many writes left.
    pub(crate) fn left(&mut self, writes: usize, now: Instant) {
        match self.was_worth_it.take() {
            Some(true) => self.trust = 1.0,
            Some(false) => {
                self.trust *= DOUBT;
                if self.is_trial(now) {
                    self.tried_at = Some(now);
                }
            }
            None => {}
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let writes = writes as f64;
        self.rate = self.rate(now) + writes / RATE_SECONDS;
        self.left_at = Some(now);
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

    fn linger(&self, now: Instant) -> Duration {
        let excess = self.usual - self.shortest * SLACK;
        let share = if self.is_trial(now) { 1.0 } else { self.trust };
        let most = self.linger_max.as_secs_f64() * share;
        Duration::from_secs_f64((excess * PATIENCE).clamp(0.0, most))
    }

    fn is_trial(&self, now: Instant) -> bool {
        self.tried_at.is_none_or(|at| now - at >= TRIAL)
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
    use std::collections::VecDeque;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{BACK_MAX, Gather, TRIAL};

    const LINGER_MAX: Duration = Duration::from_millis(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Round trips of 1 ms have become such of 8 ms, so many writes leave every 8 ms, and ten clients were
    /// just answered.
    fn after(writes: usize) -> (Gather, Instant) {
        let (mut gather, mut now) = (Gather::new(LINGER_MAX), Instant::now());
        gather.back(ms(1));
        for _ in 0..100 {
            now += ms(8);
            gather.back(ms(8));
            gather.left(writes, now);
        }
        gather.answered(10, now);
        (gather, now)
    }

    fn busy() -> (Gather, Instant) {
        after(100)
    }

    fn arrive(gather: &mut Gather, count: usize) {
        (0..count).for_each(|_| gather.arrived());
    }

    #[test]
    fn nothing_is_kept_where_round_trips_are_as_short_as_they_can_be() {
        let (mut gather, now) = (Gather::new(LINGER_MAX), Instant::now());
        assert_eq!(gather.keep(1, now), None, "nothing is known yet");
        for round_trip in [70, 71, 90, 80, 75] {
            gather.back(ms(round_trip));
            gather.answered(10, now);
            gather.left(1_000, now);
            assert_eq!(gather.keep(1, now), None, "far away is not busy");
        }
    }

    #[test]
    fn nothing_is_kept_where_hardly_anything_would_come_along() {
        let (mut gather, now) = after(3);
        arrive(&mut gather, 1);
        assert_eq!(gather.keep(1, now), None, "375 writes a second");
    }

    #[test]
    fn where_it_is_busy_those_who_were_answered_are_waited_for_but_not_for_long() {
        let (mut gather, now) = busy();
        arrive(&mut gather, 1);
        assert_eq!(gather.keep(1, now), Some(now + LINGER_MAX));
        arrive(&mut gather, 4);
        assert_eq!(gather.keep(5, now + ms(1)), Some(now + LINGER_MAX), "counted from the first");
        arrive(&mut gather, 4);
        assert_eq!(gather.keep(9, now + ms(1)), None, "all but a straggler are here");
        gather.left(9, now + ms(1));
        arrive(&mut gather, 1);
        assert_eq!(gather.keep(1, now + ms(2)), None, "the others are under way");
        gather.left(1, now + ms(2));
        gather.answered(10, now + ms(9));
        arrive(&mut gather, 5);
        assert!(gather.keep(5, now + ms(9)).is_some());
        assert_eq!(gather.keep(5, now + ms(9) + LINGER_MAX), None, "they do not come");
        gather.left(5, now + ms(9) + LINGER_MAX);
        gather.answered(5, now + ms(20));
        arrive(&mut gather, 1);
        let kept = gather.keep(1, now + ms(20)).expect("it tries again") - (now + ms(20));
        assert_eq!(kept, LINGER_MAX / 2);
    }

    #[test]
    fn a_little_too_long_is_a_little_patience() {
        let (mut gather, mut now) = (Gather::new(ms(15)), Instant::now());
        gather.back(ms(1));
        for _ in 0..200 {
            now += ms(8);
            gather.back(Duration::from_micros(1_400));
            gather.left(100, now);
        }
        gather.answered(10, now);
        let kept = gather.keep(1, now).expect("0.1 ms too long") - now;
        assert!(
            kept > Duration::from_micros(1_400) && kept < Duration::from_micros(1_700),
            "{kept:?}"
        );
    }

    #[test]
    fn where_nobody_waits_for_answers_hardly_anything_is_kept_any_longer() {
        let (mut gather, mut now) = busy();
        let mut under_way = VecDeque::new();
        let (mut kept, begun) = (Duration::ZERO, now);
        // 600 writes a second, whenever the ones before are answered.
        while now < begun + Duration::from_secs(60) {
            now += Duration::from_micros(1_667);
            while let Some((at, count)) = under_way.pop_front_if(|(at, _)| *at <= now) {
                gather.answered(count, at);
                gather.back(ms(8));
            }
            gather.arrived();
            let mut waiting = 1;
            if let Some(until) = gather.keep(waiting, now) {
                kept += until - now;
                let more = usize::try_from((until - now).as_micros() / 1_667).unwrap();
                arrive(&mut gather, more);
                (waiting, now) = (waiting + more, until);
                assert_eq!(gather.keep(waiting, now), None);
            }
            gather.left(waiting, now);
            under_way.push_back((now + ms(8), waiting));
        }
        let share = kept.as_secs_f64() / (now - begun).as_secs_f64();
        assert!(share < 0.01, "{kept:?} of {:?}", now - begun);
    }

    #[test]
    fn clients_that_are_out_of_step_are_given_the_time_to_meet_now_and_then() {
        let (mut gather, mut now) = busy();
        for _ in 0..9 {
            gather.answered(10, now);
            now = gather.keep(1, now).unwrap_or(now + LINGER_MAX);
            gather.keep(1, now);
            gather.left(100, now);
        }
        gather.answered(10, now);
        assert_eq!(gather.keep(1, now), None, "nobody came");
        now += TRIAL;
        gather.left(100, now);
        gather.answered(10, now);
        assert_eq!(gather.keep(1, now), Some(now + LINGER_MAX), "it is tried again");
        arrive(&mut gather, 10);
        assert_eq!(gather.keep(10, now + ms(4)), None, "all are here");
        gather.left(100, now + ms(4));
        gather.answered(10, now + ms(12));
        assert_eq!(gather.keep(1, now + ms(12)), Some(now + ms(12) + LINGER_MAX), "and works");
    }

    #[test]
    fn after_a_pause_nothing_is_kept() {
        let (mut gather, now) = busy();
        assert!(gather.keep(1, now + ms(10)).is_some());
        gather.emptied();
        gather.answered(10, now + ms(2_000));
        assert_eq!(gather.keep(1, now + ms(2_000)), None, "the writes of before do not count");
    }

    #[test]
    fn who_has_gone_is_expected_only_for_a_while_whatever_others_do() {
        let (mut gather, start) = busy();
        assert!(gather.keep(1, start).is_some());
        gather.left(100, start);
        // Ten never come back; three do, again and again.
        let mut now = start;
        while now < start + BACK_MAX {
            now += ms(5);
            gather.answered(3, now);
            arrive(&mut gather, 3);
            gather.left(100, now);
        }
        assert_eq!(gather.expected(now), 0);
    }

    #[test]
    fn who_was_forgotten_during_a_wait_did_not_come_and_a_wait_given_up_does_not_go_on() {
        let (mut gather, now) = busy();
        gather.trust = 0.8;
        assert!(gather.keep(1, now + BACK_MAX - ms(4)).is_some());
        assert_eq!(gather.keep(1, now + BACK_MAX), None, "nobody is expected any more");
        gather.left(100, now + BACK_MAX);
        assert!(gather.trust <= 0.8, "{}", gather.trust);
        gather.answered(10, now + BACK_MAX);
        assert!(gather.keep(1, now + BACK_MAX).is_some());
        gather.emptied();
        let later = now + BACK_MAX + ms(10);
        assert!(gather.keep(1, later).is_some(), "counted from the one who waits now");
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (mut gather, now) = busy();
        (0..1_000).for_each(|_| gather.answered(1, now));
        assert_eq!(gather.expected(now), super::ANSWERS_MAX);
        arrive(&mut gather, 1_000);
        assert_eq!(gather.expected(now), 0);
    }

    #[test]
    fn a_way_that_became_longer_is_not_taken_for_a_busy_machine_for_ever() {
        let (mut gather, now) = busy();
        (0..200_000).for_each(|_| gather.back(ms(8)));
        assert_eq!(gather.keep(1, now), None);
    }
}
