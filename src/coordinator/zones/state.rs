//! How a zone stands towards the log: a pure function of what a coordinator knows of both.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::rpc::v1::zone_view::State;

/// A zone that lacks ids which were there so long ago lags.
pub(crate) const LAGGING_AFTER: Duration = Duration::from_secs(1);

/// A zone not heard of for so long is not waited for. Until its applier is silent for so long, only
/// the applier's word says how the zone is.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Least time between two remembered heads.
const SAMPLE_GAP: Duration = Duration::from_millis(100);

/// What a coordinator knows of one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its newest applied id; `None` when it was not heard of since this process started.
    pub(crate) frontier: Option<u64>,
    /// Whether it is being filled from another zone.
    pub(crate) filling: bool,
    /// Since when it has not reported.
    pub(crate) silent: Duration,
}

/// What a coordinator's log can feed a zone with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Feed {
    /// First id that a tail can serve, from memory or from the log; one above the head when there is
    /// none.
    pub(crate) first_id: u64,
    /// First id that the log alone can serve; as above.
    pub(crate) log_first_id: u64,
    /// The head [`LAGGING_AFTER`] ago.
    pub(crate) earlier_head: u64,
}

impl Feed {
    /// Whether a zone that has `id` can be fed from there on.
    pub(crate) fn reaches(&self, id: u64) -> bool {
        id.saturating_add(1) >= self.first_id
    }

    /// Whether the log still holds all that a zone needs that has `id`.
    pub(crate) fn is_logged_after(&self, id: u64) -> bool {
        id.saturating_add(1) >= self.log_first_id
    }
}

/// The state of a zone. One whose frontier is not known is never called detached.
pub(crate) fn state(zone: Known, feed: Feed) -> State {
    let is_silent = zone.silent >= SILENT_AFTER;
    match zone.frontier {
        _ if zone.filling && !is_silent => State::Reseeding,
        None => State::Lagging,
        Some(frontier) if !feed.reaches(frontier) => State::Detached,
        Some(frontier) if is_silent || frontier < feed.earlier_head => State::Lagging,
        Some(_) => State::Live,
    }
}

/// Heads of the last second or so, to tell how far the head was then.
#[derive(Debug, Default)]
pub(crate) struct Heads(VecDeque<(Instant, u64)>);

impl Heads {
    /// Notes the head as it is now.
    pub(crate) fn note(&mut self, head: u64, now: Instant) {
        if self.0.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < SAMPLE_GAP) {
            return;
        }
        self.0.push_back((now, head));
        // The first is the newest one that is old enough.
        while self.0.get(1).is_some_and(|(at, _)| is_old_enough(*at, now)) {
            self.0.pop_front();
        }
    }

    /// The head [`LAGGING_AFTER`] ago; 0 while nothing so old is known.
    pub(crate) fn earlier(&self, now: Instant) -> u64 {
        let old_enough = self.0.iter().rev().find(|(at, _)| is_old_enough(*at, now));
        old_enough.map_or(0, |(_, head)| *head)
    }
}

fn is_old_enough(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= LAGGING_AFTER
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{Feed, Heads, Known, SILENT_AFTER, State, state};

    const FEED: Feed = Feed { first_id: 100, log_first_id: 200, earlier_head: 500 };

    fn at(frontier: u64) -> Known {
        Known { frontier: Some(frontier), filling: false, silent: Duration::ZERO }
    }

    #[test]
    fn a_zone_is_live_while_it_has_what_was_there_a_second_ago() {
        assert_eq!(state(at(500), FEED), State::Live);
        assert_eq!(state(at(499), FEED), State::Lagging);
        assert_eq!(state(Known { silent: SILENT_AFTER, ..at(500) }, FEED), State::Lagging);
    }

    #[test]
    fn a_zone_is_detached_when_the_log_begins_behind_its_next_id() {
        assert_eq!(state(at(99), FEED), State::Lagging);
        assert_eq!(state(at(98), FEED), State::Detached);
        assert_eq!(state(Known { silent: SILENT_AFTER, ..at(98) }, FEED), State::Detached);
        let unheard = Known { frontier: None, ..at(0) };
        assert_eq!(state(unheard, FEED), State::Lagging, "nobody knows where it is");
    }

    #[test]
    fn a_zone_is_being_filled_for_as_long_as_it_says_so() {
        let filling = Known { filling: true, ..at(3) };
        assert_eq!(state(filling, FEED), State::Reseeding);
        assert_eq!(state(Known { silent: SILENT_AFTER, ..filling }, FEED), State::Detached);
    }

    #[test]
    fn the_head_a_second_ago_is_told_from_a_bounded_number_of_samples() {
        let (mut heads, start) = (Heads::default(), Instant::now());
        assert_eq!(heads.earlier(start), 0);
        for step in 0..1000_u32 {
            let now = start + Duration::from_millis(10) * step;
            heads.note(u64::from(step), now);
            assert!(heads.0.len() <= 12);
            let exact = u64::from(step.saturating_sub(100));
            let least = exact.saturating_sub(10);
            let told = heads.earlier(now);
            assert!((least..=exact).contains(&told), "{told} at step {step}");
        }
    }

    proptest! {
        #[test]
        fn more_of_the_chain_never_makes_a_zones_state_worse(
            first_id in 1_u64..50, earlier_head in 0_u64..60, frontier in 0_u64..60, silent: bool)
        {
            let rank = |state: State| match state {
                State::Detached => 0,
                State::Reseeding | State::Lagging => 1,
                State::Live => 2,
            };
            let silent = if silent { SILENT_AFTER } else { Duration::ZERO };
            let feed = Feed { first_id, log_first_id: first_id, earlier_head };
            let less = state(Known { silent, ..at(frontier) }, feed);
            let more = state(Known { silent, ..at(frontier + 1) }, feed);
            prop_assert!(rank(less) <= rank(more));
            prop_assert_eq!(less == State::Detached, !feed.reaches(frontier));
        }
    }
}
