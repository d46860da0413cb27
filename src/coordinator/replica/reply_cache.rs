//! Outcomes of the newest batches, and who waits for the next ones.
//!
//! Every coordinator sequences every batch, so every coordinator can answer every submitter; a
//! submitter that resends to another coordinator finds its answer here without a second proposal.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::sequencer::{Outcome, SessionId};

/// Writes whose outcomes are remembered: some 10 MB.
const WRITES_MAX: usize = 65_536;

/// A batch's name.
pub(crate) type BatchId = (SessionId, u64);

/// Outcomes of one batch; empty when it was stale.
pub(crate) type Outcomes = Arc<Vec<Outcome>>;

#[derive(Debug, Default)]
pub(crate) struct ReplyCache {
    outcomes: HashMap<BatchId, Outcomes>,
    in_order: VecDeque<BatchId>,
    writes: usize,
    waiting: HashMap<BatchId, Vec<oneshot::Sender<Outcomes>>>,
}

/// An answer, now or later.
pub(crate) enum Lookup {
    Hit(Outcomes),
    Pending(oneshot::Receiver<Outcomes>),
}

impl ReplyCache {
    /// The outcomes of a batch, or a receiver that gets them when the batch is sequenced here.
    pub(crate) fn answer(&mut self, batch: BatchId) -> Lookup {
        if let Some(outcomes) = self.outcomes.get(&batch) {
            return Lookup::Hit(Arc::clone(outcomes));
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = self.waiting.entry(batch).or_default();
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        Lookup::Pending(receiver)
    }

    /// Forgets waiters of `batch` that have given up.
    pub(crate) fn give_up(&mut self, batch: &BatchId) {
        if let Some(waiting) = self.waiting.get_mut(batch) {
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                self.waiting.remove(batch);
            }
        }
    }

    /// Records a batch's outcomes the first time it is sequenced and tells who waits for them.
    pub(crate) fn sequenced(&mut self, batch: BatchId, outcomes: Vec<Outcome>) {
        let fresh = Arc::new(outcomes);
        let outcomes = Arc::clone(self.outcomes.entry(batch).or_insert_with(|| {
            self.writes += fresh.len();
            self.in_order.push_back(batch);
            fresh
        }));
        for waiter in self.waiting.remove(&batch).unwrap_or_default() {
            let _ = waiter.send(Arc::clone(&outcomes));
        }
        while self.writes > WRITES_MAX {
            let Some(oldest) = self.in_order.pop_front() else { return };
            self.writes -= self.outcomes.remove(&oldest).map_or(0, |outcomes| outcomes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;

    use super::{Lookup, ReplyCache};
    use crate::sequencer::Outcome;

    #[test]
    fn a_batch_sequenced_twice_keeps_its_first_outcomes() {
        let mut recent = ReplyCache::default();
        let Lookup::Pending(mut coming) = recent.answer(([1; 16], 1)) else { panic!("not known") };
        recent.sequenced(([1; 16], 1), vec![Outcome::KeyReused(WriteId::FIRST)]);
        recent.sequenced(([1; 16], 1), vec![Outcome::Repeated(WriteId::FIRST)]);
        let first = vec![Outcome::KeyReused(WriteId::FIRST)];
        assert_eq!(*coming.try_recv().expect("told"), first);
        let Lookup::Hit(known) = recent.answer(([1; 16], 1)) else { panic!("known") };
        assert_eq!(*known, first);
    }

    #[test]
    fn who_has_given_up_is_forgotten() {
        let mut recent = ReplyCache::default();
        drop(recent.answer(([1; 16], 1)));
        recent.give_up(&([1; 16], 1));
        assert!(recent.waiting.is_empty());
    }
}
