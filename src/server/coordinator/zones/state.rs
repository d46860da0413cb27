//! Computes a zone's state from its progress and the log. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use pghc_runtime::rpc::v1::zone_view::State;
use tokio::time::Instant;

/// Age of ids whose absence makes a zone lagging.
pub(crate) const LAGGING_AFTER: Duration = Duration::from_secs(1);

/// Silence after which a zone is not awaited, and after which other nodes' reports count besides
/// the applier's.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Least time between two recorded heads.
const SAMPLE_GAP: Duration = Duration::from_millis(100);

/// Progress of one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZoneProgress {
    /// Newest applied id; `None` without a report since this process started.
    pub(crate) frontier: Option<u64>,
    /// Whether a backfill from another zone is under way.
    pub(crate) backfilling: bool,
    /// Time since its last report.
    pub(crate) silent: Duration,
}

/// Ids that a coordinator can feed to a zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Feed {
    /// First id that a tail can serve, from memory or the log; one above the head if there is none.
    pub(crate) first_id: u64,
    /// First id that the log alone can serve; one above the head if there is none.
    pub(crate) log_first_id: u64,
    /// The head [`LAGGING_AFTER`] ago.
    pub(crate) earlier_head: u64,
}

impl Feed {
    /// Whether a zone at `id` can be fed from there on.
    pub(crate) fn reaches(&self, id: u64) -> bool {
        id.saturating_add(1) >= self.first_id
    }

    /// Whether the log still holds everything above `id`.
    pub(crate) fn is_logged_after(&self, id: u64) -> bool {
        id.saturating_add(1) >= self.log_first_id
    }
}

/// Computes the state of a zone. A zone with an unknown frontier is never detached.
pub(crate) fn state(zone: ZoneProgress, feed: Feed) -> State {
    let is_silent = zone.silent >= SILENT_AFTER;
    match zone.frontier {
        _ if zone.backfilling && !is_silent => State::Reseeding,
        None => State::Lagging,
        Some(frontier) if !feed.reaches(frontier) => State::Detached,
        Some(frontier) if is_silent || frontier < feed.earlier_head => State::Lagging,
        Some(_) => State::Live,
    }
}

/// Heads of about the last second.
#[derive(Debug, Default)]
pub(crate) struct Heads(VecDeque<(Instant, u64)>);

impl Heads {
    /// Records the present head.
    pub(crate) fn record(&mut self, head: u64, now: Instant) {
        if self.0.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < SAMPLE_GAP) {
            return;
        }
        self.0.push_back((now, head));
        // The first sample is the newest one that is old enough.
        while self.0.get(1).is_some_and(|(at, _)| is_old_enough(*at, now)) {
            self.0.pop_front();
        }
    }

    /// Returns the head [`LAGGING_AFTER`] ago; 0 without a sample of that age.
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

    use super::{Feed, Heads, SILENT_AFTER, State, ZoneProgress, state};

    const FEED: Feed = Feed { first_id: 100, log_first_id: 200, earlier_head: 500 };

    fn at(frontier: u64) -> ZoneProgress {
        ZoneProgress { frontier: Some(frontier), backfilling: false, silent: Duration::ZERO }
    }

    #[test]
    fn zone_is_live_with_the_head_of_a_second_ago() {
        assert_eq!(state(at(500), FEED), State::Live);
        assert_eq!(state(at(499), FEED), State::Lagging);
        assert_eq!(state(ZoneProgress { silent: SILENT_AFTER, ..at(500) }, FEED), State::Lagging);
    }

    #[test]
    fn zone_is_detached_behind_the_logs_first_id() {
        assert_eq!(state(at(99), FEED), State::Lagging);
        assert_eq!(state(at(98), FEED), State::Detached);
        assert_eq!(state(ZoneProgress { silent: SILENT_AFTER, ..at(98) }, FEED), State::Detached);
        let unreported = ZoneProgress { frontier: None, ..at(0) };
        assert_eq!(state(unreported, FEED), State::Lagging, "the frontier is unknown");
    }

    #[test]
    fn zone_is_reseeding_while_its_applier_reports_it() {
        let backfilling = ZoneProgress { backfilling: true, ..at(3) };
        assert_eq!(state(backfilling, FEED), State::Reseeding);
        assert_eq!(
            state(ZoneProgress { silent: SILENT_AFTER, ..backfilling }, FEED),
            State::Detached
        );
    }

    #[test]
    fn earlier_head_uses_bounded_samples() {
        let (mut heads, start) = (Heads::default(), Instant::now());
        assert_eq!(heads.earlier(start), 0);
        for step in 0..1000_u32 {
            let now = start + Duration::from_millis(10) * step;
            heads.record(u64::from(step), now);
            assert!(heads.0.len() <= 12);
            let exact = u64::from(step.saturating_sub(100));
            let least = exact.saturating_sub(10);
            let earlier = heads.earlier(now);
            assert!((least..=exact).contains(&earlier), "{earlier} at step {step}");
        }
    }

    proptest! {
        #[test]
        fn more_progress_never_worsens_a_zones_state(
            first_id in 1_u64..50, earlier_head in 0_u64..60, frontier in 0_u64..60, silent: bool)
        {
            let rank = |state: State| match state {
                State::Detached => 0,
                State::Reseeding | State::Lagging => 1,
                State::Live => 2,
            };
            let silent = if silent { SILENT_AFTER } else { Duration::ZERO };
            let feed = Feed { first_id, log_first_id: first_id, earlier_head };
            let less = state(ZoneProgress { silent, ..at(frontier) }, feed);
            let more = state(ZoneProgress { silent, ..at(frontier + 1) }, feed);
            prop_assert!(rank(less) <= rank(more));
            prop_assert_eq!(less == State::Detached, !feed.reaches(frontier));
        }
    }
}
