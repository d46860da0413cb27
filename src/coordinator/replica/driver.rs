//! The sequencer's driver: advances it over committed entries and passes on what comes out.
//!
//! It is advanced by whoever knows that entries are committed. openraft's own commit is one such
//! source, the acks of a majority (`acks`) another that is often faster; what was sequenced already is
//! compared and skipped, so sources may overlap.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use parking_lot::{Mutex, MutexGuard};
use pghc_api::chain::{Digest, Head};
use pghc_api::id::ClusterId;
use pghc_api::limits::TAIL_QUEUE_BYTES_MAX;
use tokio::sync::Notify;

use super::batch_cache::{BatchCache, CacheLookup};
use super::reply_cache::{BatchId, Lookup, ReplyCache};
use crate::coordinator::consensus::type_config::{Entry, LogId, SnapshotMeta, StoredMembership};
use crate::coordinator::replica::unconfirmed::UnconfirmedEntries;
use crate::rpc::v1::TailBatch;
use crate::sequencer::{Position, Sequenced, Sequencer, View, ZoneChange, Zones};
use crate::task::watch;

/// Batches handed to a tail at a time.
const TAIL_BATCHES: usize = 64;

pub(crate) struct SequencerDriver {
    inner: Mutex<Inner>,
    head_id: watch::Sender<u64>,
    /// The index after the newest entry that was sequenced.
    next_index: watch::Sender<u64>,
    zones: watch::Sender<Arc<Zones>>,
    /// UnconfirmedEntries entries are all confirmed, or a snapshot was taken; told while they are held up.
    in_step: Notify,
}

struct Inner {
    sequencer: Sequencer,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Who votes by it; nobody while two memberships count together.
    voters: Arc<[u64]>,
    early: UnconfirmedEntries,
    ring: BatchCache,
    recent: ReplyCache,
}

/// What is remembered of an entry that was sequenced.
pub(crate) struct Recalled {
    /// Positions of its writes that got no id.
    pub(crate) skipped_positions: Vec<u32>,
    /// The head before it, for one entry in many.
    pub(crate) head_before: Option<Option<Head>>,
}

/// Where a link is found.
#[derive(Debug)]
pub(crate) enum Found {
    /// Here: its digest.
    Link(Digest),
    /// In the log, by computing from this position.
    Log(Position),
    /// It is newer than the newest that was sequenced here.
    Above,
    /// It is no longer known.
    Forgotten,
}

/// What a tail continues with.
pub(crate) enum Next {
    /// Batches from memory; none: wait for the head to move.
    Batches(Vec<TailBatch>),
    /// Read the log from this position to this index, inclusive.
    Log(Position, u64),
    /// The log no longer reaches back that far.
    Purged,
}

impl SequencerDriver {
    /// Nothing sequenced yet; about `ring_bytes` of the newest batches will be kept in memory.
    pub(crate) fn new(cluster: ClusterId, ring_bytes: usize) -> Self {
        let inner = Inner {
            sequencer: Sequencer::new(cluster),
            applied: None,
            membership: StoredMembership::default(),
            voters: Arc::default(),
            early: UnconfirmedEntries::default(),
            ring: BatchCache::starting_after(0, ring_bytes),
            recent: ReplyCache::default(),
        };
        let (head_id, zones) = (watch::Sender::new(0), watch::Sender::default());
        let (next_index, in_step) = (watch::Sender::new(0), Notify::new());
        Self { inner: Mutex::new(inner), head_id, next_index, zones, in_step }
    }

    /// The registry of zones as it was sequenced, and its changes.
    pub(crate) fn zones(&self) -> watch::Receiver<Arc<Zones>> {
        self.zones.subscribe()
    }

    /// Newest id sequenced here, and its changes.
    pub(crate) fn head_id(&self) -> watch::Receiver<u64> {
        self.head_id.subscribe()
    }

    /// The index after the newest entry sequenced here, and its changes.
    pub(crate) fn next_index(&self) -> watch::Receiver<u64> {
        self.next_index.subscribe()
    }

    /// The chain's head here; `None` before link 1.
    pub(crate) fn head(&self) -> Option<Head> {
        self.inner.lock().sequencer.head()
    }

    /// The newest entry that was sequenced, and the membership by then.
    pub(crate) fn applied(&self) -> (Option<LogId>, StoredMembership) {
        let inner = self.inner.lock();
        (inner.applied, inner.membership.clone())
    }

    /// Advances over one entry that openraft has committed; entries must come in log order. Answers the
    /// number of batches in it that were not sequenced before, 0 or 1.
    ///
    /// # Errors
    /// If this build cannot read the entry, or another was sequenced in its place: the coordinator
    /// must stop.
    pub(crate) fn advance(&self, entry: Entry) -> io::Result<u64> {
        let mut inner = self.inner.lock();
        if inner.next_index() > entry.log_id.index() {
            inner.early.confirm(&entry.log_id)?;
            self.tell_if_in_step(&inner);
            return Ok(0);
        }
        self.take(inner, entry)
    }

    /// As [`Self::advance`], ahead of openraft: over the next entry, which a majority is known to hold
    /// and which is no change of the members. `None`: it is not the next, or openraft's word must be
    /// waited for.
    ///
    /// # Errors
    /// If this build cannot read the entry. Nothing has changed; openraft will come to it.
    pub(crate) fn advance_early(&self, entry: Entry) -> io::Result<Option<u64>> {
        let mut inner = self.inner.lock();
        let log_id = entry.log_id;
        if inner.next_index() != log_id.index() || !inner.early.may_go_on() {
            return Ok(None);
        }
        // Before it is sequenced, so that there is no moment in between; an entry that is not
        // sequenced ends the coordinator.
        inner.early.push(log_id);
        self.take(inner, entry).map(Some)
    }

    /// The index of the next entry, and who must hold it for it to be committed, as long as no change
    /// of the members comes before it; `None` while only openraft can tell.
    pub(crate) fn majority_for_next(&self) -> Option<(u64, Arc<[u64]>)> {
        let inner = self.inner.lock();
        let is_known = !inner.voters.is_empty() && inner.early.may_go_on();
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
                    inner.pass_on(log_id.index(), sequenced);
                    batches = 1;
                }
                if is_zone_change {
                    self.zones.send_replace(Arc::new(inner.sequencer.zones().clone()));
                }
            }
        }
        inner.applied = Some(log_id);
        self.tell(inner);
        Ok(batches)
    }

    /// Tells how far it is now.
    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        let head_id = inner.sequencer.head().map_or(0, |head| head.id.get());
        let next_index = inner.next_index();
        drop(inner);
        for (sender, now) in [(&self.head_id, head_id), (&self.next_index, next_index)] {
            // Two tasks advance: the one that is told of later may have been the earlier one.
            sender.send_if_modified(|known| now > std::mem::replace(known, now.max(*known)));
        }
    }

    /// Tells who waits for early entries to be confirmed.
    fn tell_if_in_step(&self, inner: &Inner) {
        if inner.early.is_held() && inner.early.is_caught_up() {
            self.in_step.notify_waiters();
        }
    }

    /// The outcomes of a batch, now or when it is sequenced.
    pub(crate) fn answer(&self, batch: BatchId) -> Lookup {
        self.inner.lock().recent.answer(batch)
    }

    /// A waiter for `batch` has gone.
    pub(crate) fn give_up(&self, batch: &BatchId) {
        self.inner.lock().recent.give_up(batch);
    }

    /// What follows `after_id`.
    pub(crate) fn next(&self, after_id: u64) -> Next {
        let inner = self.inner.lock();
        match inner.ring.above(after_id, TAIL_BATCHES, TAIL_QUEUE_BYTES_MAX) {
            CacheLookup::Batches(batches) => Next::Batches(batches),
            CacheLookup::Evicted => {
                let last = inner.applied.map_or(0, |applied| applied.index());
                let start = inner.sequencer.positions().before(after_id);
                start.map_or(Next::Purged, |start| Next::Log(start, last))
            }
        }
    }

    /// Where link `id` is.
    pub(crate) fn find(&self, id: u64) -> Found {
        let inner = self.inner.lock();
        let sequencer = &inner.sequencer;
        if sequencer.head().is_none_or(|head| head.id.get() < id) {
            return Found::Above;
        }
        if let Some(digest) = sequencer.marks().at(id) {
            return Found::Link(digest);
        }
        match sequencer.positions().before(id) {
            Some(position) => match position.head.filter(|head| head.id.get() == id) {
                Some(head) => Found::Link(head.digest),
                None => Found::Log(position),
            },
            None => Found::Forgotten,
        }
    }

    /// The newest link at or below `id` whose digest is kept, and that digest.
    pub(crate) fn mark(&self, id: u64) -> Option<(u64, Digest)> {
        self.inner.lock().sequencer.marks().at_or_below(id)
    }

    /// First id that a tail can be served, from memory or from a log that begins at index
    /// `log_first`, and first id that this log alone can serve; one above the head when there is none.
    pub(crate) fn first_ids(&self, log_first: u64) -> (u64, u64) {
        let inner = self.inner.lock();
        let head = inner.sequencer.head();
        let in_log = inner.sequencer.positions().first_from(log_first);
        let in_log = in_log.map_or(head, |position| position.head).map_or(0, |head| head.id.get());
        (in_log.min(inner.ring.before()) + 1, in_log + 1)
    }

    /// What is remembered of the entry at `index`; `None` if it is forgotten.
    pub(crate) fn recall(&self, index: u64) -> Option<Recalled> {
        let inner = self.inner.lock();
        let positions = inner.sequencer.positions();
        let skipped_positions = positions.skipped_positions(index)?.to_vec();
        Some(Recalled { skipped_positions, head_before: positions.head_before(index) })
    }

    /// Last index that may be purged so that the links above `after_id` can still be served.
    pub(crate) fn purgeable(&self, after_id: u64) -> Option<u64> {
        let start = self.inner.lock().sequencer.positions().before(after_id)?;
        start.index.checked_sub(1)
    }

    /// Last index up to which the log can be purged at or below `index` so that what is left can be
    /// served from its first entry on.
    pub(crate) fn purge_step(&self, index: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let step = inner.sequencer.positions().last_upto(index.saturating_add(1))?;
        step.index.checked_sub(1)
    }

    /// Forgets positions of purged entries.
    pub(crate) fn forget_below(&self, index: u64) {
        self.inner.lock().sequencer.forget_below(index);
    }

    /// Has nothing more sequenced ahead of openraft until a snapshot is taken, and waits, at most for
    /// `limit`, until openraft has committed what was. Whether it has. A snapshot of what openraft does
    /// not know to be committed would contradict it.
    pub(crate) async fn hold_for_snapshot(&self, limit: Duration) -> bool {
        self.inner.lock().early.hold(true);
        self.until(limit, UnconfirmedEntries::is_caught_up).await
    }

    /// Waits, at most for `limit`, until the snapshot is taken; whether it was or not, entries are
    /// sequenced ahead of openraft again.
    pub(crate) async fn let_go_after_snapshot(&self, limit: Duration) {
        self.until(limit, |early| !early.is_held()).await;
        self.inner.lock().early.hold(false);
    }

    async fn until(&self, limit: Duration, is_so: impl Fn(&UnconfirmedEntries) -> bool) -> bool {
        let wait = async {
            loop {
                let told = self.in_step.notified();
                if is_so(&self.inner.lock().early) {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    /// A view of the state as of now with the meta data openraft wants beside it; encoding it, which
    /// takes longer, is left to a thread that holds nobody up. `None` while the state is ahead of
    /// openraft.
    pub(crate) fn snapshot(&self) -> Option<(SnapshotMeta, View)> {
        let mut inner = self.inner.lock();
        if !inner.early.is_caught_up() {
            return None;
        }
        let last_membership = inner.membership.clone();
        let meta = SnapshotMeta { last_log_id: inner.applied, last_membership };
        inner.early.hold(false);
        self.in_step.notify_waiters();
        Some((meta, inner.sequencer.view()))
    }

    /// Replaces the state by a snapshot's. One that holds no more than was sequenced here, ahead of
    /// openraft, only confirms it: what zones were told is never taken back.
    ///
    /// # Errors
    /// If the bytes are damaged or of another cluster, or another entry was sequenced in place of the
    /// snapshot's last; nothing has changed then.
    pub(crate) fn restore(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if let Some(last) = meta.last_log_id {
            inner.early.confirm_upto(&last)?;
            self.tell_if_in_step(&inner);
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
        inner.ring.start_after(head_id);
        self.zones.send_replace(Arc::new(inner.sequencer.zones().clone()));
        self.tell(inner);
        Ok(())
    }
}

impl Inner {
    /// The index after the newest entry that was sequenced.
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

    fn pass_on(&mut self, index: u64, sequenced: Sequenced) {
        if let (Some(first_id), Some(head)) = (sequenced.first_id, sequenced.head) {
            let (bytes, skipped_positions) = (sequenced.bytes, sequenced.skipped_positions);
            let batch = tail_batch(index, first_id.get(), head, bytes, skipped_positions);
            self.ring.push(batch);
        }
        let name = (sequenced.batch.session, sequenced.batch.sequence);
        self.recent.sequenced(name, sequenced.outcomes);
    }
}

/// A batch as the tail sends it.
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
