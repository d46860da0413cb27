//! Room on the log's disk: a coordinator stops taking writes before its disk is full, so that what it
//! still has to write as a follower and a voter fits, and takes them again when there is room.
//!
//! A leader without room hands the lead over, and while it leads takes nothing. Nothing here is a
//! promise to the log: a disk that fills up all the same ends it, and with it the process, which then
//! waits for room before it opens the log again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::log::disk::Disk;
use super::raft::handle::Raft;
use super::raft::handle::leader;
use super::raft::leadership_transfer::{Limit, step_down, transfer_leadership};
use super::raft::log_store::LogStore;
use crate::task::{Tasks, watch};
use crate::telemetry::Metrics;

/// Time between two looks while the log grows. What a coordinator can write in it must be well below the
/// reserve.
const PERIOD: Duration = Duration::from_millis(200);

/// Time between two looks while the log does not grow; a new entry ends it.
const IDLE_PERIOD: Duration = Duration::from_secs(2);

/// A leader without room hands over at most once in this time: when nobody has room, the lead must
/// not go round and round.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(10);

/// Room without which the log is not even opened.
const OPEN_BYTES: u64 = 8 << 20;

/// Time between two complaints while waiting for that.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// Whether there is room; clones are the same.
#[derive(Clone)]
pub(crate) struct DiskReserve {
    disk: Arc<dyn Disk>,
    id: u64,
    reserve_bytes: u64,
    is_short: Arc<AtomicBool>,
}

impl DiskReserve {
    /// Watches the `disk` of coordinator `id`, of which `reserve_bytes` are to stay free; 0 watches
    /// nothing.
    pub(crate) fn new(disk: Arc<dyn Disk>, id: u64, reserve_bytes: u64) -> Self {
        let space = Self { disk, id, reserve_bytes, is_short: Arc::default() };
        space.look();
        space
    }

    /// Whether no writes are taken.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Looks once; answers the free bytes. A disk that does not say is left as it was judged last.
    fn look(&self) -> Option<u64> {
        let free_bytes = self.disk.free_bytes().ok()?;
        let was = self.is_short();
        let is_short = is_short(free_bytes, self.reserve_bytes, was);
        self.is_short.store(is_short, Ordering::Relaxed);
        let reserve_bytes = self.reserve_bytes;
        match (was, is_short) {
            (false, true) => tracing::error!(
                free_bytes,
                reserve_bytes,
                "the disk is nearly full: no writes are taken until there is room again; nothing is \
                 lost; free space on the disk of the log"
            ),
            (true, false) => {
                tracing::info!(free_bytes, reserve_bytes, "there is room again: writes are taken");
            }
            _ => {}
        }
        Some(free_bytes)
    }

    /// Waits until the log can be opened: a process that the full disk has ended must not die again
    /// and again.
    pub(crate) async fn room_to_open(&self) {
        let needed_bytes = OPEN_BYTES.min(self.reserve_bytes);
        let mut complain_at = Instant::now();
        while let Some(free_bytes) = self.look().filter(|free| *free < needed_bytes) {
            if Instant::now() >= complain_at {
                complain_at = Instant::now() + COMPLAINT_PAUSE;
                tracing::error!(
                    free_bytes,
                    needed_bytes,
                    "the disk is full: this coordinator waits for room before it opens its log"
                );
            }
            sleep(PERIOD).await;
        }
    }

    /// Starts the task that looks for as long as the process runs.
    pub(crate) fn start(self, raft: &Raft, log: &LogStore, metrics: &Arc<Metrics>, tasks: &Tasks) {
        let (raft, appended, metrics) = (raft.clone(), log.appended(), Arc::clone(metrics));
        tasks.spawn("disk space", self.watch(raft, appended, metrics));
    }

    /// `appended` changes with every entry.
    async fn watch(self, raft: Raft, mut appended: watch::Receiver<u64>, metrics: Arc<Metrics>) {
        let mut hand_over_at = Instant::now();
        loop {
            if let Some(free_bytes) = self.look() {
                metrics.coordinator.disk_free_bytes.set(free_bytes);
            }
            metrics.coordinator.is_short_of_disk.set(u64::from(self.is_short()));
            let leads = leader(&raft) == Some(self.id);
            if self.is_short() && leads && Instant::now() >= hand_over_at {
                tracing::warn!("the disk is nearly full: handing the lead over");
                hand_over_at = Instant::now() + HAND_OVER_PAUSE;
                let targets: BTreeSet<u64> = raft.voter_ids().collect();
                let limit = Limit { target: HAND_OVER_PAUSE / 4, all: HAND_OVER_PAUSE / 2 };
                // A group of one has nobody to hand over to.
                if targets.len() > 1 && !transfer_leadership(&raft, self.id, &targets, limit).await
                {
                    step_down(raft.clone(), self.id, HAND_OVER_PAUSE / 2).await;
                }
            }
            sleep(PERIOD).await;
            // Shortage ends without an entry of ours.
            let rest = if self.is_short() { PERIOD } else { IDLE_PERIOD } - PERIOD;
            let _ = tokio::time::timeout(rest, appended.changed()).await;
        }
    }
}

/// A quarter more than the reserve must be free before writes are taken again.
fn is_short(free_bytes: u64, reserve_bytes: u64, was: bool) -> bool {
    free_bytes < if was { reserve_bytes + reserve_bytes / 4 } else { reserve_bytes }
}

#[cfg(test)]
mod tests {
    use super::is_short;

    #[test]
    fn writes_stop_below_the_reserve_and_go_on_a_quarter_above_it() {
        assert!(!is_short(100, 100, false) && is_short(99, 100, false));
        assert!(is_short(124, 100, true) && !is_short(125, 100, true));
        assert!(!is_short(0, 0, false) && !is_short(0, 0, true), "no reserve, no watch");
    }
}
