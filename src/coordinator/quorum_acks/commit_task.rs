//! The task that sequences what a majority has said to be durable.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;

use super::progress::Board;
use super::quorum::{Leader, Mark, Seen, proven};
use crate::coordinator::consensus::type_config::Entry;
use crate::coordinator::peers::traffic_guard::Gate;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::Sequencing;
use crate::task::Tasks;
use crate::telemetry::Metrics;

/// Bytes of log read at a time. What is longer and not proved within so much is left to openraft.
const READ_BYTES: usize = 256 << 10;

/// First and longest pause after the log could not be read; each is twice the one before.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Counting {
    board: Board,
    gate: Gate,
    sequencing: Arc<Sequencing>,
    log: LogStore,
    metrics: Arc<Metrics>,
}

impl Counting {
    /// Starts the task if acks are counted here. openraft must have read the log by now.
    pub(crate) fn start(
        board: &Board,
        gate: &Gate,
        sequencing: &Arc<Sequencing>,
        log: &LogStore,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) {
        if board.is_on() {
            let (board, gate, log) = (board.clone(), gate.clone(), log.clone());
            let (sequencing, metrics) = (Arc::clone(sequencing), Arc::clone(metrics));
            let counting = Self { board, gate, sequencing, log, metrics };
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
                    Err(Trouble::Sequencing(error)) => {
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
        if !self.gate.is_open() {
            return Ok(false);
        }
        let Some((next, voters)) = self.sequencing.majority_for_next() else { return Ok(false) };
        let mark = self.board.committed(&voters).filter(|mark| mark.index >= next);
        let Some(mark) = mark else { return Ok(false) };
        // One look at the log: what is checked is what is sequenced, whatever becomes of the log.
        let entries = self.log.read(next, mark.index.saturating_add(1), READ_BYTES);
        let entries = entries.map_err(Trouble::Reading)?;
        let count = proven(entries.iter().map(seen), next, mark);
        let last = next + count as u64;
        for entry in entries.into_iter().take(count) {
            match self.sequencing.advance_early(entry).map_err(Trouble::Sequencing)? {
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
    Sequencing(io::Error),
}

fn seen(entry: &Entry) -> Seen {
    Seen {
        at: Mark { leader: Leader::of(&entry.log_id), index: entry.log_id.index },
        is_membership: matches!(entry.payload, EntryPayload::Membership(_)),
    }
}
