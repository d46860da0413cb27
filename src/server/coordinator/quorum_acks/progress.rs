//! Latest durable position of every voter, updated by local log flushes and by peer acks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::Mutex;
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::task::fair_watch;
use tokio::sync::Notify;

use super::Acks;
use super::quorum::{Ack, LogMatch, QuorumTracker};
use crate::coordinator::consensus::type_config::{LogId, Vote};

/// Clones share the state.
#[derive(Clone)]
pub(crate) struct ReplicationProgress(Arc<Inner>);

struct Inner {
    id: u64,
    mode: Acks,
    /// Newest vote given to the log.
    vote: Mutex<Option<Vote>>,
    /// Newest own ack; an unsent older one is dropped, because only the newest counts.
    own: fair_watch::Sender<Option<Ack>>,
    tracker: Mutex<QuorumTracker>,
    /// Signals a new ack, or an appended entry that a majority already holds.
    changed: Notify,
    /// Index after the newest entry that a majority is known to hold.
    counted: AtomicU64,
}

impl ReplicationProgress {
    /// Starts without acks; `id` is this coordinator.
    pub(crate) fn new(id: u64, mode: Acks) -> Self {
        Self(Arc::new(Inner {
            id,
            mode,
            vote: Mutex::default(),
            own: fair_watch::Sender::new(None),
            tracker: Mutex::default(),
            changed: Notify::new(),
            counted: AtomicU64::new(0),
        }))
    }

    /// Whether acks are sent and counted here.
    pub(crate) fn is_on(&self) -> bool {
        self.0.mode == Acks::AllToAll
    }

    /// Records the vote and the last entry of the opened log, both durable.
    pub(crate) fn on_open(&self, vote: Option<Vote>, last: Option<LogId>) {
        *self.0.vote.lock() = vote;
        if let Some(ack) = vote.zip(last).map(|(vote, last)| Ack::new(&vote, &last)) {
            self.on_durable(ack);
        }
    }

    /// Records a vote given to the log. Every later entry becomes durable after the vote.
    pub(crate) fn on_vote(&self, vote: &Vote) {
        *self.0.vote.lock() = Some(*vote);
    }

    /// Returns the ack that is true once the entries up to `last`, about to be appended, are
    /// durable. It carries the present vote, which precedes the entries in the log. A newer vote
    /// would be right too, since the entries are older.
    pub(crate) fn when_durable(&self, last: &LogId) -> Option<Ack> {
        if !self.is_on() {
            return None;
        }
        let vote = *self.0.vote.lock();
        let ack = vote.map(|vote| Ack::new(&vote, last))?;
        if mutation::is_active(Mutant::AckToAllBeforeSync) {
            self.on_durable(ack);
        }
        Some(ack)
    }

    /// Publishes `ack`, which is now true. Runs on the log's thread and must be short.
    pub(crate) fn on_durable(&self, ack: Ack) {
        if self.is_on() {
            self.0.own.send_replace(Some(ack));
            self.record(self.0.id, &ack);
        }
    }

    /// Signals that entries from index `first` on can be read.
    pub(crate) fn on_append(&self, first: u64) {
        // Pairs with the fence in `committed`: either this call sees the counted index, or the
        // counting task, which reads the log afterwards, sees the entries.
        fence(Ordering::SeqCst);
        if self.0.counted.load(Ordering::Relaxed) > first {
            self.0.changed.notify_one();
        }
    }

    /// Records an ack of coordinator `voter`.
    pub(crate) fn record(&self, voter: u64, ack: &Ack) {
        if self.0.tracker.lock().merge(voter, ack) {
            self.0.changed.notify_one();
        }
    }

    /// Returns this coordinator's acks, for a sender.
    pub(crate) fn own(&self) -> fair_watch::Receiver<Option<Ack>> {
        let mut own = self.0.own.subscribe();
        own.mark_changed();
        own
    }

    /// Resolves when more entries may be committed.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns the position that a majority of `voters` proves.
    pub(crate) fn committed(&self, voters: &[u64]) -> Option<LogMatch> {
        let mark = self.0.tracker.lock().committed(voters)?;
        self.0.counted.store(mark.index.saturating_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Some(mark)
    }
}
