//! Where acks are posted: the own ones by the log as its flushes end, the others' by the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Acks;
use super::quorum::{Ack, LogMatch, QuorumTracker};
use crate::coordinator::consensus::type_config::{LogId, Vote};
use crate::sabotage::{self, Bug};
use crate::task::watch;

/// Clones are the same board.
#[derive(Clone)]
pub(crate) struct ReplicationProgress(Arc<Inner>);

struct Inner {
    id: u64,
    mode: Acks,
    /// The vote as it was given to the log last.
    vote: Mutex<Option<Vote>>,
    /// The newest own ack. What was not sent before the next one is never sent: only the newest
    /// matters.
    own: watch::Sender<Option<Ack>>,
    tally: Mutex<QuorumTracker>,
    /// Something was said, or an entry has come of which enough was said already.
    news: Notify,
    /// The index after the newest entry that a majority is known to hold.
    counted: AtomicU64,
}

impl ReplicationProgress {
    /// The board of coordinator `id`, on which nothing was posted.
    pub(crate) fn new(id: u64, mode: Acks) -> Self {
        Self(Arc::new(Inner {
            id,
            mode,
            vote: Mutex::default(),
            own: watch::Sender::new(None),
            tally: Mutex::default(),
            news: Notify::new(),
            counted: AtomicU64::new(0),
        }))
    }

    /// Whether acks are told and counted here.
    pub(crate) fn is_on(&self) -> bool {
        self.0.mode == Acks::AllToAll
    }

    /// The log was opened with this vote and this last entry, both durable.
    pub(crate) fn opened(&self, vote: Option<Vote>, last: Option<LogId>) {
        *self.0.vote.lock() = vote;
        if let Some(ack) = vote.zip(last).map(|(vote, last)| Ack::new(&vote, &last)) {
            self.durable(ack);
        }
    }

    /// The log was given a vote. Every entry that is given to it later is durable no sooner.
    pub(crate) fn voted(&self, vote: &Vote) {
        *self.0.vote.lock() = Some(*vote);
    }

    /// What can be said when the entries up to `last`, which are about to be given to the log, are
    /// durable: the vote of now, because it is before them in the log. A newer vote would not be wrong
    /// either, since the entries are older than it.
    pub(crate) fn when_durable(&self, last: &LogId) -> Option<Ack> {
        if !self.is_on() {
            return None;
        }
        let vote = *self.0.vote.lock();
        let ack = vote.map(|vote| Ack::new(&vote, last))?;
        if sabotage::is(Bug::AckToAllBeforeSync) {
            self.durable(ack);
        }
        Some(ack)
    }

    /// What `ack` says has come true. Called on the log's own thread: short.
    pub(crate) fn durable(&self, ack: Ack) {
        if self.is_on() {
            self.0.own.send_replace(Some(ack));
            self.heard(self.0.id, &ack);
        }
    }

    /// The log was given entries from index `first` on: they can be read now.
    pub(crate) fn appended(&self, first: u64) {
        // Pairs with the fence of `committed`: either this sees what was counted, or the counting
        // task, which looks into the log afterwards, sees the entries.
        fence(Ordering::SeqCst);
        if self.0.counted.load(Ordering::Relaxed) > first {
            self.0.news.notify_one();
        }
    }

    /// Coordinator `voter` says so.
    pub(crate) fn heard(&self, voter: u64, ack: &Ack) {
        if self.0.tally.lock().note(voter, ack) {
            self.0.news.notify_one();
        }
    }

    /// The own acks, for a sender.
    pub(crate) fn own(&self) -> watch::Receiver<Option<Ack>> {
        let mut own = self.0.own.subscribe();
        own.mark_changed();
        own
    }

    /// Resolves when there may be more that is committed.
    pub(crate) async fn news(&self) {
        self.0.news.notified().await;
    }

    /// What a majority of `voters` proves.
    pub(crate) fn committed(&self, voters: &[u64]) -> Option<LogMatch> {
        let mark = self.0.tally.lock().committed(voters)?;
        self.0.counted.store(mark.index.saturating_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Some(mark)
    }
}
