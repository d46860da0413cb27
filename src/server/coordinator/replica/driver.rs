//! Drives the sequencer over committed entries and publishes its results.
//!
//! Its callers know that an entry is committed: openraft's state machine, or quorum acks, which are
//! often faster. Entries that were already sequenced are compared and skipped, so the sources may
//! overlap.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use parking_lot::{Mutex, MutexGuard};
use pghc_api::chain::{Digest, Head};
use pghc_api::id::ClusterId;
use pghc_api::limits::TAIL_QUEUE_BYTES_MAX;
use pghc_runtime::rpc::v1::TailBatch;
use pghc_runtime::task::fair_watch;
use tokio::sync::Notify;

use super::batch_cache::{BatchCache, CacheLookup};
use super::reply_cache::{BatchId, Lookup, ReplyCache};
use crate::coordinator::consensus::type_config::{Entry, LogId, SnapshotMeta, StoredMembership};
use crate::coordinator::replica::unconfirmed::UnconfirmedEntries;
use crate::sequencer::{Position, Sequenced, Sequencer, View, ZoneChange, Zones};

/// Most batches handed to a tail at a time.
const TAIL_BATCHES: usize = 64;

pub(crate) struct SequencerDriver {
    inner: Mutex<Inner>,
    head_id: fair_watch::Sender<u64>,
    /// Index after the newest sequenced entry.
    next_index: fair_watch::Sender<u64>,
    zones: fair_watch::Sender<Arc<Zones>>,
    /// Signals, during a pause, that no entry is unconfirmed or that a snapshot was taken.
    caught_up: Notify,
}

struct Inner {
    sequencer: Sequencer,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Voters by the newest sequenced membership; empty during joint consensus.
    voters: Arc<[u64]>,
    unconfirmed: UnconfirmedEntries,
    batch_cache: BatchCache,
    reply_cache: ReplyCache,
}

/// Information kept of a sequenced entry.
pub(crate) struct EntryRecord {
    /// Positions of its writes without an id.
    pub(crate) skipped_positions: Vec<u32>,
    /// Head before it, kept for one entry in many.
    pub(crate) head_before: Option<Option<Head>>,
}

/// Location of a link.
#[derive(Debug)]
pub(crate) enum LinkLocation {
    /// Known here: its digest.
    Link(Digest),
    /// In the log: computed from this position.
    Log(Position),
    /// Above the newest id sequenced here.
    Above,
    /// No longer known.
    Forgotten,
}

/// Continuation of a tail.
pub(crate) enum TailStep {
    /// Batches from memory; empty: wait for the head to move.
    Batches(Vec<TailBatch>),
    /// Read the log from this position to this index, inclusive.
    Log(Position, u64),
    /// The log no longer reaches back that far.
    Purged,
}

impl SequencerDriver {
    /// Starts with an empty state; `ring_bytes` is the limit of the batch cache.
    pub(crate) fn new(cluster: ClusterId, ring_bytes: usize) -> Self {
        let inner = Inner {
            sequencer: Sequencer::new(cluster),
            applied: None,
            membership: StoredMembership::default(),
            voters: Arc::default(),
            unconfirmed: UnconfirmedEntries::default(),
            batch_cache: BatchCache::starting_after(0, ring_bytes),
            reply_cache: ReplyCache::default(),
        };
        let (head_id, zones) = (fair_watch::Sender::new(0), fair_watch::Sender::default());
        let (next_index, caught_up) = (fair_watch::Sender::new(0), Notify::new());
        Self { inner: Mutex::new(inner), head_id, next_index, zones, caught_up }
    }

    /// Returns the sequenced registry of zones and its changes.
    pub(crate) fn zones(&self) -> fair_watch::Receiver<Arc<Zones>> {
        self.zones.subscribe()
    }

    /// Returns the newest sequenced id and its changes.
    pub(crate) fn head_id(&self) -> fair_watch::Receiver<u64> {
        self.head_id.subscribe()
    }

    /// Returns the index after the newest sequenced entry, and its changes.
    pub(crate) fn next_index(&self) -> fair_watch::Receiver<u64> {
        self.next_index.subscribe()
    }

    /// Returns the chain's head; `None` before link 1.
    pub(crate) fn head(&self) -> Option<Head> {
        self.inner.lock().sequencer.head()
    }

    /// Returns the newest sequenced entry and the membership at that point.
    pub(crate) fn applied(&self) -> (Option<LogId>, StoredMembership) {
        let inner = self.inner.lock();
        (inner.applied, inner.membership.clone())
    }

    /// Advances over an entry that openraft has committed, in log order. Returns the number of
    /// newly sequenced batches, 0 or 1.
    ///
    /// # Errors
    /// If this build cannot read the entry, or another entry was sequenced at its index: the
    /// coordinator must stop.
    pub(crate) fn advance(&self, entry: Entry) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        if inner.next_index() > entry.log_id.index() {
            inner.unconfirmed.confirm(&entry.log_id)?;
            self.notify_if_caught_up(&inner);
            return Ok(0);
        }
        self.take(inner, entry)
    }

    /// Advances over the next entry ahead of openraft. A majority must hold the entry, and it must
    /// not change the membership. Returns `None` if it is not the next entry or early sequencing
    /// pauses.
    ///
    /// # Errors
    /// If this build cannot read the entry. Nothing has changed; openraft will commit the entry.
    pub(crate) fn advance_early(&self, entry: Entry) -> io::Result<Option<u64>> {
        let mut inner = self.inner.lock();
        let log_id = entry.log_id;
        if inner.next_index() != log_id.index() || !inner.unconfirmed.may_go_on() {
            return Ok(None);
        }
        // Recorded before it is sequenced, so that there is no gap. A failure to sequence stops the
        // coordinator.
        inner.unconfirmed.push(log_id);
        self.take(inner, entry).map(Some)
    }

    /// Returns the next index and the voters whose majority commits it, until the next membership
    /// change; `None` while only openraft can decide.
    pub(crate) fn majority_for_next(&self) -> Option<(u64, Arc<[u64]>)> {
        let inner = self.inner.lock();
        let is_known = !inner.voters.is_empty() && inner.unconfirmed.may_go_on();
        is_known.then(|| (inner.next_index(), Arc::clone(&inner.voters)))
    }

    fn take(&self, mut inner: MutexGuard<'_, Inner>, entry: Entry) -> io::Result<u64> {
        let log_id = entry.log_id;
        let mut batches = 0;
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                inner.set_membership(StoredMembership::new(Some(log_id), membership));
            }
            EntryPayload::Normal(proposal) => {
                let is_zone_change = ZoneChange::is(&proposal.0);
                let sequenced = inner.sequencer.advance(log_id.index(), proposal.0);
                let sequenced = sequenced.map_err(|error| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the committed entry at index {} cannot be sequenced: {error}; this \
                                 coordinator stops, nothing is lost; start it with the version that \
                                 wrote the entry", log_id.index()),
                    )
                })?;
                if let Some(sequenced) = sequenced {
                    inner.publish_batch(log_id.index(), sequenced);
                    batches = 1;
                }
                if is_zone_change {
                    self.zones.send_replace(Arc::new(inner.sequencer.zones().clone()));
                }
            }
        }
        inner.applied = Some(log_id);
        self.publish(inner);
        Ok(batches)
    }

    /// Publishes the new head.
    fn publish(&self, inner: MutexGuard<'_, Inner>) {
        let head_id = inner.sequencer.head().map_or(0, |head| head.id.get());
        let next_index = inner.next_index();
        drop(inner);
        for (sender, now) in [(&self.head_id, head_id), (&self.next_index, next_index)] {
            // Two tasks advance: the later publication may hold the earlier index.
            sender.send_if_modified(|known| now > std::mem::replace(known, now.max(*known)));
        }
    }

    /// Wakes the tasks that wait for the confirmation of early entries.
    fn notify_if_caught_up(&self, inner: &Inner) {
        if inner.unconfirmed.is_held() && inner.unconfirmed.is_caught_up() {
            self.caught_up.notify_waiters();
        }
    }

    /// Returns the outcomes of a batch, now or once it is sequenced.
    pub(crate) fn lookup(&self, batch: BatchId) -> Lookup {
        self.inner.lock().reply_cache.lookup(batch)
    }

    /// Removes an abandoned waiter of `batch`.
    pub(crate) fn abandon(&self, batch: &BatchId) {
        self.inner.lock().reply_cache.abandon(batch);
    }

    /// Returns the continuation of a tail behind `after_id`.
    pub(crate) fn next(&self, after_id: u64) -> TailStep {
        let inner = self.inner.lock();
        match inner.batch_cache.above(after_id, TAIL_BATCHES, TAIL_QUEUE_BYTES_MAX) {
            CacheLookup::Batches(batches) => TailStep::Batches(batches),
            CacheLookup::Evicted => {
                let last = inner.applied.map_or(0, |applied| applied.index());
                let start = inner.sequencer.positions().before(after_id);
                start.map_or(TailStep::Purged, |start| TailStep::Log(start, last))
            }
        }
    }

    /// Returns the location of link `id`.
    pub(crate) fn find(&self, id: u64) -> LinkLocation {
        let inner = self.inner.lock();
        let sequencer = &inner.sequencer;
        if sequencer.head().is_none_or(|head| head.id.get() < id) {
            return LinkLocation::Above;
        }
        if let Some(digest) = sequencer.marks().at(id) {
            return LinkLocation::Link(digest);
        }
        match sequencer.positions().before(id) {
            Some(position) => match position.head.filter(|head| head.id.get() == id) {
                Some(head) => LinkLocation::Link(head.digest),
                None => LinkLocation::Log(position),
            },
            None => LinkLocation::Forgotten,
        }
    }

    /// Returns the newest link at or below `id` whose digest is kept, with the digest.
    pub(crate) fn mark(&self, id: u64) -> Option<(u64, Digest)> {
        self.inner.lock().sequencer.marks().at_or_below(id)
    }

    /// Returns the first id that a tail can serve, from memory or from a log that begins at index
    /// `log_first`, and the first id that this log alone can serve; one above the head if there is
    /// none.
    pub(crate) fn first_ids(&self, log_first: u64) -> (u64, u64) {
        let inner = self.inner.lock();
        let head = inner.sequencer.head();
        let in_log = inner.sequencer.positions().first_from(log_first);
        let in_log = in_log.map_or(head, |position| position.head).map_or(0, |head| head.id.get());
        (in_log.min(inner.batch_cache.before()) + 1, in_log + 1)
    }

    /// Returns the information kept of the entry at `index`; `None` if it is gone.
    pub(crate) fn recall(&self, index: u64) -> Option<EntryRecord> {
        let inner = self.inner.lock();
        let positions = inner.sequencer.positions();
        let skipped_positions = positions.skipped_positions(index)?.to_vec();
        Some(EntryRecord { skipped_positions, head_before: positions.head_before(index) })
    }

    /// Returns the last index whose purge leaves the links above `after_id` servable.
    pub(crate) fn purgeable(&self, after_id: u64) -> Option<u64> {
        let start = self.inner.lock().sequencer.positions().before(after_id)?;
        start.index.checked_sub(1)
    }

    /// Returns the last purgeable index at or below `index` such that the remaining log can be
    /// served from its first entry on.
    pub(crate) fn purge_step(&self, index: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let step = inner.sequencer.positions().last_upto(index.saturating_add(1))?;
        step.index.checked_sub(1)
    }

    /// Drops positions of purged entries.
    pub(crate) fn forget_below(&self, index: u64) {
        self.inner.lock().sequencer.forget_below(index);
    }

    /// Pauses early sequencing until a snapshot is taken, and waits up to `limit` for openraft to
    /// commit the entries sequenced so far. Returns whether it has. A snapshot of unconfirmed
    /// entries would contradict openraft.
    pub(crate) async fn pause_for_snapshot(&self, limit: Duration) -> bool {
        self.inner.lock().unconfirmed.hold(true);
        self.until(limit, UnconfirmedEntries::is_caught_up).await
    }

    /// Waits up to `limit` for the snapshot, then resumes early sequencing in any case.
    pub(crate) async fn resume_after_snapshot(&self, limit: Duration) {
        self.until(limit, |unconfirmed| !unconfirmed.is_held()).await;
        self.inner.lock().unconfirmed.hold(false);
    }

    async fn until(&self, limit: Duration, is_so: impl Fn(&UnconfirmedEntries) -> bool) -> bool {
        let wait = async {
            loop {
                let notified = self.caught_up.notified();
                if is_so(&self.inner.lock().unconfirmed) {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// Returns a view of the present state with the metadata for openraft; the caller encodes the
    /// view on another thread. `None` while the state is ahead of openraft.
    pub(crate) fn snapshot(&self) -> Option<(SnapshotMeta, View)> {
        let mut inner = self.inner.lock();
        if !inner.unconfirmed.is_caught_up() {
            return None;
        }
        let last_membership = inner.membership.clone();
        let meta = SnapshotMeta { last_log_id: inner.applied, last_membership };
        inner.unconfirmed.hold(false);
        self.caught_up.notify_waiters();
        Some((meta, inner.sequencer.view()))
    }

    /// Replaces the state by a snapshot's. An older snapshot only confirms the entries sequenced
    /// early: published links are never taken back.
    ///
    /// # Errors
    /// If the bytes are damaged or of another cluster, or another entry was sequenced in place of
    /// the snapshot's last. Nothing has changed then.
    pub(crate) fn restore(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if let Some(last) = meta.last_log_id {
            inner.unconfirmed.confirm_upto(&last)?;
            self.notify_if_caught_up(&inner);
            if inner.next_index() > last.index() {
                return Ok(());
            }
        }
        let sequencer = Sequencer::restore(inner.sequencer.cluster(), bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let head_id = sequencer.head().map_or(0, |head| head.id.get());
        inner.sequencer = sequencer;
        inner.applied = meta.last_log_id;
        inner.set_membership(meta.last_membership.clone());
        inner.batch_cache.start_after(head_id);
        self.zones.send_replace(Arc::new(inner.sequencer.zones().clone()));
        self.publish(inner);
        Ok(())
    }
}

impl Inner {
    /// Returns the index after the newest sequenced entry.
    fn next_index(&self) -> u64 {
        self.applied.map_or(0, |applied| applied.index() + 1)
    }

    fn set_membership(&mut self, membership: StoredMembership) {
        self.voters = match &membership.membership().get_joint_config()[..] {
            [voters] => voters.iter().copied().collect(),
            _ => Arc::default(),
        };
        self.membership = membership;
    }

    fn publish_batch(&mut self, index: u64, sequenced: Sequenced) {
        if let (Some(first_id), Some(head)) = (sequenced.first_id, sequenced.head) {
            let (bytes, skipped_positions) = (sequenced.bytes, sequenced.skipped_positions);
            let batch = tail_batch(index, first_id.get(), head, bytes, skipped_positions);
            self.batch_cache.push(batch);
        }
        let name = (sequenced.batch.session, sequenced.batch.sequence);
        self.reply_cache.sequenced(name, sequenced.outcomes);
    }
}

/// Builds the message of a tail.
pub(crate) fn tail_batch(
    index: u64,
    first_id: u64,
    head: Head,
    batch: bytes::Bytes,
    skipped_positions: Vec<u32>,
) -> TailBatch {
    TailBatch {
        index,
        first_id,
        written_at: head.written_at.0,
        batch,
        skipped_positions,
        hash: head.hash.0.to_vec().into(),
        digest: head.digest.0.to_vec().into(),
        last_id: head.id.get(),
    }
}
