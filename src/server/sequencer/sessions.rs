//! Recognises resent batches by session and sequence number.
//!
//! Kept are the newest [`SESSION_BATCHES_MAX`] batches of the [`SESSIONS_MAX`] most recently used
//! sessions. An older batch is refused as stale, since it may be a late copy. An API node has far
//! fewer batches in flight; a first transmission that is overtaken by more is refused too, with an
//! unknown outcome.

use std::collections::{BTreeMap, HashMap, VecDeque};

use pghc_api::id::WriteId;
use pghc_api::limits::{SESSION_BATCHES_MAX, SESSIONS_MAX};
use serde::{Deserialize, Serialize};

use super::entry::SessionId;

/// Compact result of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BatchRecord {
    pub(super) sequence: u64,
    /// Id of the first new write; the others follow densely.
    pub(super) first_id: Option<WriteId>,
    pub(super) writes: u32,
    /// Position, id and key reuse of every write without an id of its own.
    pub(super) skipped_positions: Vec<(u32, WriteId, bool)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Session {
    /// Raft index of its newest batch.
    last_used: u64,
    /// Largest dropped sequence number.
    forgotten: u64,
    /// Ascending by sequence number.
    batches: VecDeque<BatchRecord>,
}

/// Lookup result of a sequence number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    New,
    Before(&'a BatchRecord),
    /// Older than every kept batch.
    Stale,
}

/// All kept sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    sessions: HashMap<SessionId, Session>,
    by_use: BTreeMap<u64, SessionId>,
}

impl Sessions {
    pub(super) fn seen(&self, session: &SessionId, sequence: u64) -> Seen<'_> {
        let Some(session) = self.sessions.get(session) else { return Seen::New };
        if let Ok(at) = session.batches.binary_search_by_key(&sequence, |batch| batch.sequence) {
            return Seen::Before(&session.batches[at]);
        }
        if sequence <= session.forgotten { Seen::Stale } else { Seen::New }
    }

    /// Records a batch that was [`Seen::New`], sequenced at Raft index `index`.
    pub(super) fn record(&mut self, id: SessionId, index: u64, batch: BatchRecord) {
        let session = self.sessions.entry(id).or_default();
        self.by_use.remove(&session.last_used);
        session.last_used = index;
        self.by_use.insert(index, id);
        let at = session.batches.partition_point(|known| known.sequence < batch.sequence);
        session.batches.insert(at, batch);
        if session.batches.len() > SESSION_BATCHES_MAX
            && let Some(oldest) = session.batches.pop_front()
        {
            session.forgotten = oldest.sequence;
        }
        if self.sessions.len() > SESSIONS_MAX
            && let Some((_, least_used)) = self.by_use.pop_first()
        {
            self.sessions.remove(&least_used);
        }
    }

    /// Returns all sessions, least recently used first.
    pub(super) fn in_order(&self) -> Vec<(SessionId, Session)> {
        self.by_use.values().map(|id| (*id, self.sessions[id].clone())).collect()
    }

    /// Restores sessions; `None` if they are inconsistent: too many, repeated, with equal last
    /// uses, or with batches that do not ascend.
    pub(super) fn restore(sessions: Vec<(SessionId, Session)>) -> Option<Self> {
        let count = sessions.len();
        let ascend = |session: &Session| {
            session.batches.len() <= SESSION_BATCHES_MAX
                && session.batches.iter().is_sorted_by(|a, b| a.sequence < b.sequence)
        };
        if count > SESSIONS_MAX || !sessions.iter().all(|(_, session)| ascend(session)) {
            return None;
        }
        let by_use: BTreeMap<u64, SessionId> =
            sessions.iter().map(|(id, session)| (session.last_used, *id)).collect();
        let sessions: HashMap<SessionId, Session> = sessions.into_iter().collect();
        (by_use.len() == count && sessions.len() == count).then_some(Self { sessions, by_use })
    }
}

#[cfg(test)]
mod tests {
    use pghc_api::limits::{SESSION_BATCHES_MAX, SESSIONS_MAX};

    use super::{BatchRecord, Seen, Session, SessionId, Sessions};

    fn batch(sequence: u64) -> BatchRecord {
        BatchRecord { sequence, first_id: None, writes: 1, skipped_positions: Vec::new() }
    }

    #[test]
    fn batch_out_of_order_is_recognised() {
        let mut sessions = Sessions::default();
        for (index, sequence) in [(1, 3), (2, 1), (3, 2)] {
            assert_eq!(sessions.seen(&[1; 16], sequence), Seen::New);
            sessions.record([1; 16], index, batch(sequence));
        }
        assert_eq!(sessions.seen(&[1; 16], 2), Seen::Before(&batch(2)));
        assert_eq!(sessions.seen(&[2; 16], 2), Seen::New);
    }

    #[test]
    fn copy_older_than_the_window_is_stale() {
        let mut sessions = Sessions::default();
        for sequence in 1..=SESSION_BATCHES_MAX as u64 + 1 {
            sessions.record([1; 16], sequence, batch(sequence));
        }
        assert_eq!(sessions.seen(&[1; 16], 1), Seen::Stale);
        assert_eq!(sessions.seen(&[1; 16], 2), Seen::Before(&batch(2)));
    }

    #[test]
    fn inconsistent_sessions_are_refused() {
        let mut sessions = Sessions::default();
        sessions.record([1; 16], 1, batch(1));
        sessions.record([1; 16], 2, batch(2));
        sessions.record([2; 16], 3, batch(1));
        let good = sessions.in_order();
        assert_eq!(Sessions::restore(good.clone()).expect("as saved").in_order().len(), 2);
        let with = |change: fn(&mut Vec<(SessionId, Session)>)| {
            let mut changed = good.clone();
            change(&mut changed);
            Sessions::restore(changed)
        };
        assert!(with(|all| all[1].0 = all[0].0).is_none(), "one session twice");
        assert!(with(|all| all[1].1.last_used = all[0].1.last_used).is_none(), "used at once");
        assert!(with(|all| all[0].1.batches.swap(0, 1)).is_none(), "batches out of order");
    }

    #[test]
    fn least_recently_used_session_is_evicted() {
        let mut sessions = Sessions::default();
        let id = |number: usize| (number as u128).to_be_bytes();
        for number in 0..=SESSIONS_MAX {
            sessions.record(id(number), number as u64 + 1, batch(1));
        }
        assert_eq!(sessions.seen(&id(0), 1), Seen::New);
        assert_eq!(sessions.seen(&id(1), 1), Seen::Before(&batch(1)));
        assert_eq!(sessions.in_order().len(), SESSIONS_MAX);
    }
}
