//! Bounds the log by snapshots and purges.
//!
//! A purge stops at the flushed frontier of the slowest zone; above a cap it goes on and detaches
//! zones that are too far behind. Changes of the zones' states are logged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::v1::ZoneView;
use pghc_runtime::rpc::v1::zone_view::State;
use pghc_runtime::telemetry::{Metrics, ZONE_STATES};

use super::raft::handle::Raft;
use super::raft::log_store::{Extent, LogStore};
use super::replica::driver::SequencerDriver;
use super::settings::{Retention, Settings};
use super::zones::progress_view::ZoneProgressView;
use super::zones::state::Feed;

/// Longest wait for openraft to commit the entries sequenced early, and then for the snapshot.
/// After it the next check retries.
const IN_STEP_MAX: Duration = Duration::from_secs(5);

/// Purge decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Purge {
    /// Last index to purge.
    upto: u64,
    /// Whether a zone that is fed from the log may need purged entries.
    forced: bool,
}

/// Decides the purge of a log above its limits. `unneeded_up_to` is the last index that no zone needs;
/// `step` rounds an index down to a purgeable one.
fn decide(
    log: Extent,
    retention: &Retention,
    unneeded_up_to: Option<u64>,
    step: impl Fn(u64) -> Option<u64>,
) -> Option<Purge> {
    let gentle = (log.bytes > retention.log_bytes)
        .then(|| {
            unneeded_up_to
                .map(|unneeded_up_to| unneeded_up_to.min(log.excess(retention.log_bytes / 2)))
        })
        .flatten();
    let forced = (log.bytes > retention.log_bytes_max)
        .then(|| step(log.excess(retention.log_bytes_max)))
        .flatten();
    let upto = gentle.max(forced).filter(|upto| *upto >= log.first)?;
    Some(Purge { upto, forced: Some(upto) > unneeded_up_to })
}

pub(crate) struct RetentionTask {
    raft: Raft,
    log: LogStore,
    driver: Arc<SequencerDriver>,
    zone_progress: ZoneProgressView,
    retention: Retention,
    metrics: Arc<Metrics>,
}

impl RetentionTask {
    pub(crate) fn new(
        raft: &Raft,
        log: LogStore,
        driver: &Arc<SequencerDriver>,
        zone_progress: ZoneProgressView,
        settings: &Settings,
    ) -> Self {
        Self {
            raft: raft.clone(),
            log,
            driver: Arc::clone(driver),
            zone_progress,
            retention: settings.retention,
            metrics: Arc::clone(&settings.metrics),
        }
    }

    /// Runs until dropped.
    pub(crate) async fn run(self) {
        let (mut snapshot_at, mut states) = (self.snapshot_index(), BTreeMap::new());
        loop {
            tokio::time::sleep(self.retention.period).await;
            let applied = self.driver.applied().0.map_or(0, |applied| applied.index());
            snapshot_at = snapshot_at.max(self.snapshot_index());
            let is_due = applied.saturating_sub(snapshot_at) >= self.retention.snapshot_entries;
            if is_due && self.snapshot().await {
                snapshot_at = applied;
            }
            self.metrics.coordinator.log_bytes.set(self.log.bytes_on_disk());
            self.driver.forget_below(self.log.first());
            let feed = self.zone_progress.feed();
            self.record_states(&mut states, &self.zone_progress.views(feed));
            if let Some(log) = self.log.extent() {
                self.purge(log, feed).await;
            }
        }
    }

    /// Returns the index of the newest snapshot; 0 without one.
    fn snapshot_index(&self) -> u64 {
        let snapshot = self.raft.metrics().borrow_watched().snapshot;
        snapshot.map_or(0, |snapshot| snapshot.index())
    }

    /// Triggers a snapshot; returns whether it was started.
    async fn snapshot(&self) -> bool {
        let is_caught_up = self.driver.pause_for_snapshot(IN_STEP_MAX).await;
        if is_caught_up && let Err(error) = self.raft.trigger().snapshot().await {
            tracing::error!(%error, "snapshot start failed");
        }
        let limit = if is_caught_up { IN_STEP_MAX } else { Duration::ZERO };
        self.driver.resume_after_snapshot(limit).await;
        is_caught_up
    }

    /// Purges up to the snapshot, which openraft never exceeds. If more is due, triggers a snapshot
    /// for the next check.
    async fn purge(&self, log: Extent, feed: Feed) {
        let unneeded_up_to = self.zone_progress.zones.unneeded_up_to(feed);
        let unneeded_up_to = if mutation::is_active(Mutant::PurgeIgnoresZones) {
            Some(u64::MAX)
        } else {
            unneeded_up_to
        };
        let unneeded_up_to = unneeded_up_to.and_then(|id| self.driver.purgeable(id));
        let step = |index| self.driver.purge_step(index);
        let Some(Purge { upto, forced }) = decide(log, &self.retention, unneeded_up_to, step)
        else {
            return;
        };
        let snapshot = self.snapshot_index();
        if upto > snapshot {
            self.snapshot().await;
        }
        let upto = upto.min(snapshot);
        if upto < log.first {
            return;
        }
        if forced {
            tracing::warn!(
                upto,
                bytes = log.bytes,
                bytes_max = self.retention.log_bytes_max,
                "log cap exceeded, purging entries lagging zones need"
            );
        }
        if let Err(error) = self.raft.trigger().purge_log(upto).await {
            tracing::error!(%error, "log purge failed");
        }
    }

    /// Counts the registered zones by state and logs changes.
    fn record_states(&self, known: &mut BTreeMap<String, State>, views: &[ZoneView]) {
        for number in 0..ZONE_STATES.len() {
            let is_in = |view: &&ZoneView| usize::try_from(view.state) == Ok(number);
            let count = views.iter().filter(|view| view.registered).filter(is_in).count();
            self.metrics.coordinator.zones_in(number).set(count as u64);
        }
        for view in views.iter().filter(|view| view.registered) {
            let is_detached = u64::from(view.state() == State::Detached);
            self.metrics.coordinator.detached(&view.zone).set(is_detached);
        }
        known.retain(|zone, _| {
            let stays = views.iter().any(|view| view.zone == *zone);
            if !stays {
                self.metrics.coordinator.zone_detached.remove(&[("of_zone", zone.clone())]);
            }
            stays
        });
        for view in views {
            let (zone, state, frontier) = (&view.zone, view.state(), view.frontier);
            let before = known.insert(zone.clone(), state);
            if before == Some(state) || (before.is_none() && state == State::Live) {
                continue;
            }
            let (before, state_name) = (before.map(|it| it.as_str_name()), state.as_str_name());
            if state == State::Detached {
                tracing::warn!(
                    zone,
                    frontier,
                    before,
                    "zone detached: this coordinator's log no longer reaches back to its frontier; \
                     backfill it from another zone, unless another coordinator's log still does"
                );
            } else {
                tracing::info!(zone, frontier, before, state = state_name, "zone state changed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Extent, Purge, Retention, decide};

    const RETENTION: Retention = Retention {
        log_bytes: 1_000,
        log_bytes_max: 4_000,
        snapshot_entries: 10,
        period: std::time::Duration::from_secs(1),
        reserve_bytes: 0,
    };

    fn log(bytes: u64) -> Extent {
        Extent { first: 100, last: 99 + bytes / 10, bytes }
    }

    #[test]
    fn excess_counts_bytes_above_the_limit() {
        let log = Extent { first: 100, last: 199, bytes: 1000 };
        assert_eq!(log.excess(500), 149);
        assert_eq!(log.excess(0), 199);
        assert_eq!(log.excess(1000), 99);
    }

    #[test]
    fn log_above_limit_is_purged_to_half_within_zone_needs() {
        let purge =
            |bytes, unneeded_up_to| decide(log(bytes), &RETENTION, unneeded_up_to, |_| None);
        let gentle = |upto| Some(Purge { upto, forced: false });
        assert_eq!(purge(1_000, Some(500)), None);
        assert_eq!(purge(1_500, Some(500)), gentle(199));
        assert_eq!(purge(1_500, Some(120)), gentle(120));
        assert_eq!(purge(1_500, Some(99)), None);
        assert_eq!(purge(4_000, None), None);
    }

    #[test]
    fn log_above_cap_is_purged_despite_zone_needs() {
        let purge = |unneeded_up_to| {
            decide(log(5_000), &RETENTION, unneeded_up_to, |index| Some(index - 2))
        };
        assert_eq!(purge(None), Some(Purge { upto: 197, forced: true }));
        assert_eq!(purge(Some(120)), Some(Purge { upto: 197, forced: true }));
        assert_eq!(purge(Some(300)), Some(Purge { upto: 300, forced: false }));
    }

    proptest! {
        #[test]
        fn purge_spares_zone_needs_below_the_cap(
            bytes in 10_u64..9_000, unneeded_up_to in proptest::option::of(0_u64..2_000), back in 0_u64..9)
        {
            let log = log(bytes);
            let step = |index: u64| index.checked_sub(back);
            if let Some(purge) = decide(log, &RETENTION, unneeded_up_to, step) {
                prop_assert!((log.first..=log.last).contains(&purge.upto));
                prop_assert_eq!(purge.forced, Some(purge.upto) > unneeded_up_to);
                prop_assert!(!purge.forced || bytes > RETENTION.log_bytes_max);
            }
        }
    }

    #[test]
    fn segments_are_small_compared_with_the_limit() {
        for (log_bytes, expected) in [(0, 64 << 10), (16 << 20, 1 << 20), (1 << 40, 64 << 20)] {
            let retention = Retention { log_bytes, ..Retention::default() };
            assert_eq!(retention.segment_bytes(), expected);
        }
    }
}
