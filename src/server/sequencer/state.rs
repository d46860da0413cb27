//! State of the sequencer and its transition: a committed entry in, ids out.

use bytes::Bytes;
use pghc_api::chain::{Head, payload_digest};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::time::Micros;
use pghc_runtime::mutation::{self, Mutant};

use super::entry::{Batch, Entry, EntryError, Write};
use super::keys::{Keys, fingerprint};
use super::marks::Marks;
use super::positions::Positions;
use super::sessions::{BatchRecord, Seen, Sessions};
use super::zones::{ZoneChange, Zones};

/// Result of ordering one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderResult {
    /// A new link with these chain values.
    Ordered(Head),
    /// An earlier write with the same key and payload has this id.
    Repeated(WriteId),
    /// An earlier write with the same key and another payload has this id; this one was not
    /// ordered.
    KeyReused(WriteId),
}

/// Result of one entry that carries a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequenced {
    /// The batch it carried.
    pub batch: Batch,
    /// The batch's bytes.
    pub bytes: Bytes,
    /// One per write; empty if the batch was stale and nothing was ordered.
    pub outcomes: Vec<OrderResult>,
    /// Positions of the writes without an id, ascending.
    pub skipped_positions: Vec<u32>,
    /// Head of the chain after it.
    pub head: Option<Head>,
    /// Id of its first new link, if any.
    pub first_id: Option<WriteId>,
}

/// Replicated state machine.
#[derive(Debug, Clone)]
pub struct Sequencer {
    pub(super) cluster: ClusterId,
    pub(super) head: Option<Head>,
    pub(super) keys: Keys,
    pub(super) sessions: Sessions,
    pub(super) positions: Positions,
    pub(super) marks: Marks,
    pub(super) zones: Zones,
}

impl Sequencer {
    /// Creates the state before the first entry.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            head: None,
            keys: Keys::default(),
            sessions: Sessions::default(),
            positions: Positions::default(),
            marks: Marks::default(),
            zones: Zones::default(),
        }
    }

    /// Returns the cluster of this chain.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Returns the chain's head; `None` before link 1.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Returns the positions of ids in the log.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Returns the kept digests of the chain.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Returns the registry of zones.
    #[must_use]
    pub fn zones(&self) -> &Zones {
        &self.zones
    }

    /// Drops positions below the purged log's first index.
    pub fn forget_below(&mut self, index: u64) {
        self.positions.forget_below(index);
    }

    /// Advances over the committed entry at Raft index `index`. Returns `None` for a change of the
    /// zone registry, which carries no batch. Indexes must ascend; openraft's own entries are left
    /// out.
    ///
    /// # Errors
    /// If this build cannot read the entry. Nothing has changed, and the coordinator must stop: a
    /// skipped entry would shift every later id.
    pub fn advance(&mut self, index: u64, entry: Bytes) -> Result<Option<Sequenced>, EntryError> {
        if ZoneChange::is(&entry) {
            self.zones.apply(index, ZoneChange::decode(entry)?);
            return Ok(None);
        }
        let entry_bytes = entry.len();
        let entry = Entry::decode(entry)?;
        let bytes = entry.batch.clone();
        let batch = Batch::decode(entry.batch)?;
        let before = self.head;
        let written_at = commit_time(before, entry.proposed_at);
        if let Some(head) = self.head.as_mut().filter(|_| mutation::is_active(Mutant::IdFromIndex))
        {
            head.id = head.id.max(WriteId::try_from(index).unwrap_or(head.id));
        }

        let outcomes = match self.sessions.seen(&batch.session, batch.sequence) {
            Seen::Before(record) => repeat(record),
            Seen::Stale => Vec::new(),
            Seen::New => self.order(&batch, written_at),
        };
        let is_new = |outcome: &OrderResult| matches!(outcome, OrderResult::Ordered(_));
        let skipped_positions: Vec<u32> = (0_u32..)
            .zip(0..batch.writes.len())
            .filter(|(_, at)| !outcomes.get(*at).is_some_and(is_new))
            .map(|(position, _)| position)
            .collect();
        let first_id = (self.head != before)
            .then(|| before.map_or(WriteId::FIRST, |head: Head| head.id.next()));
        if let Seen::New = self.sessions.seen(&batch.session, batch.sequence) {
            let record = record(batch.sequence, first_id, &outcomes);
            self.sessions.record(batch.session, index, record);
        }
        self.positions.record(index, entry_bytes, before, &skipped_positions);
        let head = self.head;
        Ok(Some(Sequenced { batch, bytes, outcomes, skipped_positions, head, first_id }))
    }

    fn order(&mut self, batch: &Batch, written_at: Micros) -> Vec<OrderResult> {
        let mut outcomes = Vec::with_capacity(batch.writes.len());
        for write in &batch.writes {
            outcomes.push(self.order_one(batch, write, written_at));
        }
        outcomes
    }

    fn order_one(&mut self, batch: &Batch, write: &Write, written_at: Micros) -> OrderResult {
        let payload = write.payload.as_deref().map(payload_digest);
        let known = write.key.as_deref().and_then(|key| self.keys.get(key));
        if let Some((known_payload, id)) = known {
            let same = known_payload == fingerprint(payload);
            return if same { OrderResult::Repeated(id) } else { OrderResult::KeyReused(id) };
        }
        let head =
            Head::extend(self.head.as_ref(), &self.cluster, &batch.node, written_at, payload);
        if let Some(key) = write.key.as_deref() {
            self.keys.insert(key, fingerprint(payload), head.id);
        }
        self.marks.record(&head);
        self.head = Some(head);
        OrderResult::Ordered(head)
    }
}

/// Returns the commit time behind `head`: the leader's clock, but never earlier than the head, and
/// always a time that PostgreSQL and a snapshot can store.
fn commit_time(head: Option<Head>, proposed_at: Micros) -> Micros {
    let proposed_at = proposed_at.clamp(Micros::MIN, Micros::MAX);
    head.map_or(proposed_at, |head| head.written_at.max(proposed_at))
}

/// Recomputes an entry's new links up to `until`, from the head before it and the positions without
/// an id. Tails use it to serve from the log. Returns the batch's bytes and the newest link; `None`
/// for an entry without a batch.
///
/// # Errors
/// If this build cannot read the entry.
pub fn extend(
    cluster: &ClusterId,
    head: Option<Head>,
    entry: Bytes,
    skipped_positions: &[u32],
    until: u64,
) -> Result<Option<(Bytes, Option<Head>)>, EntryError> {
    if ZoneChange::is(&entry) {
        return Ok(None);
    }
    let entry = Entry::decode(entry)?;
    let bytes = entry.batch.clone();
    let batch = Batch::decode(entry.batch)?;
    let written_at = commit_time(head, entry.proposed_at);
    let mut after = head;
    for (position, write) in (0_u32..).zip(&batch.writes) {
        if after.is_some_and(|after| after.id.get() >= until) {
            break;
        }
        if skipped_positions.binary_search(&position).is_err() {
            let payload = write.payload.as_deref().map(payload_digest);
            after = Some(Head::extend(after.as_ref(), cluster, &batch.node, written_at, payload));
        }
    }
    Ok(Some((bytes, after)))
}

fn record(sequence: u64, first_id: Option<WriteId>, outcomes: &[OrderResult]) -> BatchRecord {
    let skipped_positions =
        (0_u32..).zip(outcomes).filter_map(|(position, outcome)| match outcome {
            OrderResult::Ordered(_) => None,
            OrderResult::Repeated(id) => Some((position, *id, false)),
            OrderResult::KeyReused(id) => Some((position, *id, true)),
        });
    BatchRecord {
        sequence,
        first_id,
        writes: u32::try_from(outcomes.len()).expect("at most 1000"),
        skipped_positions: skipped_positions.collect(),
    }
}

fn repeat(record: &BatchRecord) -> Vec<OrderResult> {
    let mut skipped_positions = record.skipped_positions.iter().peekable();
    let mut next = record.first_id;
    let outcome = |position| {
        if let Some((_, id, reused)) = skipped_positions.next_if(|(at, _, _)| *at == position) {
            return if *reused { OrderResult::KeyReused(*id) } else { OrderResult::Repeated(*id) };
        }
        let id = next.expect("a batch with a new write has a first id");
        next = Some(id.next());
        OrderResult::Repeated(id)
    };
    (0..record.writes).map(outcome).collect()
}
