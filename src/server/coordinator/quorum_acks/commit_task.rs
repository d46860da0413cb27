//! Sequences the entries that a majority has acknowledged as durable.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;

use super::progress::ReplicationProgress;
use super::quorum::{Leader, LogEntryRef, LogMatch, proven};
use crate::coordinator::consensus::type_config::Entry;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::SequencerDriver;

/// Bytes of one log read. An entry beyond them is left to openraft's commit.
const READ_BYTES: usize = 256 << 10;

/// First and longest pause after a failed log read; each pause doubles the previous one.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Task that counts acks.
pub(crate) struct CommitTask {
    progress: ReplicationProgress,
    traffic_guard: RaftTrafficGuard,
    driver: Arc<SequencerDriver>,
    log: LogStore,
    metrics: Arc<Metrics>,
}

impl CommitTask {
    /// Starts the task if acks are counted here. openraft must have read the log by then.
    pub(crate) fn start(
        progress: &ReplicationProgress,
        traffic_guard: &RaftTrafficGuard,
        driver: &Arc<SequencerDriver>,
        log: &LogStore,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) {
        if progress.is_on() {
            let (progress, traffic_guard, log) =
                (progress.clone(), traffic_guard.clone(), log.clone());
            let (driver, metrics) = (Arc::clone(driver), Arc::clone(metrics));
            let commit_task = Self { progress, traffic_guard, driver, log, metrics };
            tasks.spawn("ack counting", commit_task.run());
        }
    }

    /// Runs until dropped, or until an entry cannot be sequenced; openraft's commit then reports
    /// the error. A failed log read is retried, while openraft's commit goes on.
    async fn run(self) {
        let counts = &self.metrics.coordinator.counts_acks;
        counts.set(1);
        let mut pause = Duration::ZERO;
        loop {
            self.progress.changed().await;
            loop {
                match self.step() {
                    Ok(is_more) => {
                        if !std::mem::take(&mut pause).is_zero() {
                            tracing::info!("ack counting resumed");
                            counts.set(1);
                        }
                        if !is_more {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    Err(CommitError::Reading(error)) => {
                        if pause.is_zero() {
                            tracing::warn!(%error, "log read failed, ack counting paused");
                            counts.set(0);
                        }
                        pause = (pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                        tokio::time::sleep(pause).await;
                    }
                    Err(CommitError::SequencerDriver(error)) => {
                        tracing::error!(%error, "ack counting stopped");
                        counts.set(0);
                        return;
                    }
                }
            }
        }
    }

    /// Sequences the next proven entries; returns whether there may be more.
    fn step(&self) -> Result<bool, CommitError> {
        if !self.traffic_guard.is_admitted() {
            return Ok(false);
        }
        let Some((next, voters)) = self.driver.majority_for_next() else { return Ok(false) };
        let mark = self.progress.committed(&voters).filter(|mark| mark.index >= next);
        let Some(mark) = mark else { return Ok(false) };
        // One read: the checked entries are the sequenced ones, whatever happens to the log.
        let entries = self.log.read(next, mark.index.saturating_add(1), READ_BYTES);
        let entries = entries.map_err(CommitError::Reading)?;
        let count = proven(entries.iter().map(seen), next, mark);
        let last = next + count as u64;
        for entry in entries.into_iter().take(count) {
            match self.driver.advance_early(entry).map_err(CommitError::SequencerDriver)? {
                // openraft was faster, or pauses early sequencing: check again.
                None => return Ok(true),
                Some(batches) => self.metrics.coordinator.commits_from_acks().inc_by(batches),
            };
        }
        Ok(count > 0 && last <= mark.index)
    }
}

/// Reason why nothing was sequenced.
enum CommitError {
    /// The log could not be read; a retry may succeed.
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
