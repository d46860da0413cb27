//! The task that sequences what a majority has said to be durable.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;

use super::progress::ReplicationProgress;
use super::quorum::{Leader, LogEntryRef, LogMatch, proven};
use crate::coordinator::consensus::type_config::Entry;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::SequencerDriver;
use crate::task::Tasks;
use crate::telemetry::Metrics;

/// Bytes of log read at a time. What is longer and not proved within so much is left to openraft.
const READ_BYTES: usize = 256 << 10;

/// First and longest pause after the log could not be read; each is twice the one before.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct CommitTask {
    board: ReplicationProgress,
    traffic_guard: RaftTrafficGuard,
    driver: Arc<SequencerDriver>,
    log: LogStore,
    metrics: Arc<Metrics>,
}

impl CommitTask {
    /// Starts the task if acks are counted here. openraft must have read the log by now.
    pub(crate) fn start(
        board: &ReplicationProgress,
        traffic_guard: &RaftTrafficGuard,
        driver: &Arc<SequencerDriver>,
        log: &LogStore,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) {
        if board.is_on() {
            let (board, traffic_guard, log) = (board.clone(), traffic_guard.clone(), log.clone());
            let (driver, metrics) = (Arc::clone(driver), Arc::clone(metrics));
            let counting = Self { board, traffic_guard, driver, log, metrics };
            tasks.spawn("counting acks", counting.run());
        }
    }

    /// Runs until it is dropped, or until an entry cannot be sequenced, which openraft then says. While
    /// the log cannot be read it tries again; openraft's own commit goes on meanwhile, or says why not.
    async fn run(self) {
        let counts = &self.metrics.coordinator.counts_acks;
        counts.set(1);
        let mut pause = Duration::ZERO;
        loop {
            self.board.news().await;
            loop {
                match self.step() {
                    Ok(is_more) => {
                        if !std::mem::take(&mut pause).is_zero() {
                            tracing::info!("acks are counted again");
                            counts.set(1);
                        }
                        if !is_more {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    Err(Trouble::Reading(error)) => {
                        if pause.is_zero() {
                            tracing::warn!(%error, "acks are not counted until the log can be read");
                            counts.set(0);
                        }
                        pause = (pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                        tokio::time::sleep(pause).await;
                    }
                    Err(Trouble::SequencerDriver(error)) => {
                        tracing::error!(%error, "acks are no longer counted");
                        counts.set(0);
                        return;
                    }
                }
            }
        }
    }

    /// Sequences some of what is proved; whether there may be more.
    fn step(&self) -> Result<bool, Trouble> {
        if !self.traffic_guard.is_admitted() {
            return Ok(false);
        }
        let Some((next, voters)) = self.driver.majority_for_next() else { return Ok(false) };
        let mark = self.board.committed(&voters).filter(|mark| mark.index >= next);
        let Some(mark) = mark else { return Ok(false) };
        // One look at the log: what is checked is what is sequenced, whatever becomes of the log.
        let entries = self.log.read(next, mark.index.saturating_add(1), READ_BYTES);
        let entries = entries.map_err(Trouble::Reading)?;
        let count = proven(entries.iter().map(seen), next, mark);
        let last = next + count as u64;
        for entry in entries.into_iter().take(count) {
            match self.driver.advance_early(entry).map_err(Trouble::SequencerDriver)? {
                // openraft was faster, or holds it up: look again.
                None => return Ok(true),
                Some(batches) => self.metrics.coordinator.sequenced_by_acks.inc_by(batches),
            };
        }
        Ok(count > 0 && last <= mark.index)
    }
}

/// Why nothing more was sequenced.
enum Trouble {
    /// The log could not be read: perhaps later.
    Reading(io::Error),
    /// An entry cannot be sequenced, now or later.
    SequencerDriver(io::Error),
}

fn seen(entry: &Entry) -> LogEntryRef {
    LogEntryRef {
        at: LogMatch { leader: Leader::of(&entry.log_id), index: entry.log_id.index },
        is_membership: matches!(entry.payload, EntryPayload::Membership(_)),
    }
}
