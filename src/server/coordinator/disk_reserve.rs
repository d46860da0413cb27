//! Stops writes before the log's disk is full, so that votes and follower appends still fit.
//!
//! Below the reserve a leader transfers its leadership and rejects proposals. A full disk still
//! ends the log and the process; at its next start the process waits for free space before it opens
//! the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pghc_runtime::task::{Tasks, fair_watch};
use pghc_runtime::telemetry::Metrics;
use tokio::time::{Instant, sleep};

use super::log::disk::Disk;
use super::raft::handle::Raft;
use super::raft::handle::leader;
use super::raft::leadership_transfer::{TransferLimit, step_down, transfer_leadership};
use super::raft::log_store::LogStore;

/// Time between two polls while the log grows. Writes within this time must stay well below the
/// reserve.
const PERIOD: Duration = Duration::from_millis(200);

/// Time between two polls while the log does not grow; a new entry ends the pause.
const IDLE_PERIOD: Duration = Duration::from_secs(2);

/// Least time between two leadership transfers, so that leadership does not circulate when every
/// disk is full.
const TRANSFER_PAUSE: Duration = Duration::from_secs(10);

/// Free bytes required to open the log.
const OPEN_BYTES: u64 = 8 << 20;

/// Time between two warnings while waiting for free space.
const WARN_PAUSE: Duration = Duration::from_secs(60);

/// Disk reserve state; clones share it.
#[derive(Clone)]
pub(crate) struct DiskReserve {
    disk: Arc<dyn Disk>,
    id: u64,
    reserve_bytes: u64,
    is_below_reserve: Arc<AtomicBool>,
}

impl DiskReserve {
    /// Watches `disk` for coordinator `id`; `reserve_bytes` are to stay free, 0 disables the check.
    pub(crate) fn new(disk: Arc<dyn Disk>, id: u64, reserve_bytes: u64) -> Self {
        let disk_reserve = Self { disk, id, reserve_bytes, is_below_reserve: Arc::default() };
        disk_reserve.poll();
        disk_reserve
    }

    /// Whether writes are rejected.
    pub(crate) fn is_below_reserve(&self) -> bool {
        self.is_below_reserve.load(Ordering::Relaxed)
    }

    /// Polls the free bytes and returns them. On an error the previous state stays.
    fn poll(&self) -> Option<u64> {
        let free_bytes = self.disk.free_bytes().ok()?;
        let was = self.is_below_reserve();
        let is_below_reserve = is_below_reserve(free_bytes, self.reserve_bytes, was);
        self.is_below_reserve.store(is_below_reserve, Ordering::Relaxed);
        let reserve_bytes = self.reserve_bytes;
        match (was, is_below_reserve) {
            (false, true) => tracing::error!(
                free_bytes,
                reserve_bytes,
                "disk reserve reached, writes rejected until space is free; nothing is \
                 lost; free space on the disk of the log"
            ),
            (true, false) => {
                tracing::info!(free_bytes, reserve_bytes, "disk reserve restored, writes accepted");
            }
            _ => {}
        }
        Some(free_bytes)
    }

    /// Waits until the log can be opened, so that a full disk does not restart the process in a
    /// loop.
    pub(crate) async fn room_to_open(&self) {
        let needed_bytes = OPEN_BYTES.min(self.reserve_bytes);
        let mut complain_at = Instant::now();
        while let Some(free_bytes) = self.poll().filter(|free| *free < needed_bytes) {
            if Instant::now() >= complain_at {
                complain_at = Instant::now() + WARN_PAUSE;
                tracing::error!(
                    free_bytes,
                    needed_bytes,
                    "disk full, waiting for free space before opening the log"
                );
            }
            sleep(PERIOD).await;
        }
    }

    /// Starts the polling task.
    pub(crate) fn start(self, raft: &Raft, log: &LogStore, metrics: &Arc<Metrics>, tasks: &Tasks) {
        let (raft, appended, metrics) = (raft.clone(), log.appended(), Arc::clone(metrics));
        tasks.spawn("disk reserve", self.watch(raft, appended, metrics));
    }

    /// Polls until dropped. `appended` changes with every entry.
    async fn watch(
        self,
        raft: Raft,
        mut appended: fair_watch::Receiver<u64>,
        metrics: Arc<Metrics>,
    ) {
        let mut transfer_at = Instant::now();
        loop {
            if let Some(free_bytes) = self.poll() {
                metrics.coordinator.disk_free_bytes.set(free_bytes);
            }
            metrics.coordinator.is_short_of_disk.set(u64::from(self.is_below_reserve()));
            let leads = leader(&raft) == Some(self.id);
            if self.is_below_reserve() && leads && Instant::now() >= transfer_at {
                tracing::warn!("disk reserve reached, transferring leadership");
                transfer_at = Instant::now() + TRANSFER_PAUSE;
                let targets: BTreeSet<u64> = raft.voter_ids().collect();
                let limit = TransferLimit { target: TRANSFER_PAUSE / 4, all: TRANSFER_PAUSE / 2 };
                // A group of one has no transfer target.
                if targets.len() > 1 && !transfer_leadership(&raft, self.id, &targets, limit).await
                {
                    step_down(raft.clone(), self.id, TRANSFER_PAUSE / 2).await;
                }
            }
            sleep(PERIOD).await;
            // Space can become free without a new entry.
            let rest = if self.is_below_reserve() { PERIOD } else { IDLE_PERIOD } - PERIOD;
            let _ = tokio::time::timeout(rest, appended.changed()).await;
        }
    }
}

/// Writes resume only when the free bytes exceed the reserve by a quarter.
fn is_below_reserve(free_bytes: u64, reserve_bytes: u64, was: bool) -> bool {
    free_bytes < if was { reserve_bytes + reserve_bytes / 4 } else { reserve_bytes }
}

#[cfg(test)]
mod tests {
    use super::is_below_reserve;

    #[test]
    fn writes_resume_a_quarter_above_the_reserve() {
        assert!(!is_below_reserve(100, 100, false) && is_below_reserve(99, 100, false));
        assert!(is_below_reserve(124, 100, true) && !is_below_reserve(125, 100, true));
        assert!(
            !is_below_reserve(0, 0, false) && !is_below_reserve(0, 0, true),
            "no reserve, no watch"
        );
    }
}
