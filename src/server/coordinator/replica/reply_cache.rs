//! Caches the outcomes of the newest batches, and the waiters for the next ones.
//!
//! Every coordinator sequences every batch. An API node that resends to another coordinator gets
//! its reply here without a second proposal.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::sequencer::{OrderResult, SessionId};

/// Writes whose outcomes are kept: about 10 MB.
const WRITES_MAX: usize = 65_536;

/// Name of a batch.
pub(crate) type BatchId = (SessionId, u64);

/// OrderResults of one batch; empty if it was stale.
pub(crate) type OrderResults = Arc<Vec<OrderResult>>;

#[derive(Debug, Default)]
pub(crate) struct ReplyCache {
    outcomes: HashMap<BatchId, OrderResults>,
    in_order: VecDeque<BatchId>,
    writes: usize,
    waiting: HashMap<BatchId, Vec<oneshot::Sender<OrderResults>>>,
}

/// Result of a lookup: now or later.
pub(crate) enum Lookup {
    Hit(OrderResults),
    Pending(oneshot::Receiver<OrderResults>),
}

impl ReplyCache {
    /// Returns the outcomes of a batch, or a receiver for them.
    pub(crate) fn lookup(&mut self, batch: BatchId) -> Lookup {
        if let Some(outcomes) = self.outcomes.get(&batch) {
            return Lookup::Hit(Arc::clone(outcomes));
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = self.waiting.entry(batch).or_default();
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        Lookup::Pending(receiver)
    }

    /// Removes abandoned waiters of `batch`.
    pub(crate) fn abandon(&mut self, batch: &BatchId) {
        if let Some(waiting) = self.waiting.get_mut(batch) {
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                self.waiting.remove(batch);
            }
        }
    }

    /// Records a batch's outcomes the first time it is sequenced and wakes its waiters.
    pub(crate) fn sequenced(&mut self, batch: BatchId, outcomes: Vec<OrderResult>) {
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
    use crate::sequencer::OrderResult;

    #[test]
    fn repeated_batch_keeps_its_first_outcomes() {
        let mut reply_cache = ReplyCache::default();
        let Lookup::Pending(mut coming) = reply_cache.lookup(([1; 16], 1)) else {
            panic!("not known")
        };
        reply_cache.sequenced(([1; 16], 1), vec![OrderResult::KeyReused(WriteId::FIRST)]);
        reply_cache.sequenced(([1; 16], 1), vec![OrderResult::Repeated(WriteId::FIRST)]);
        let first = vec![OrderResult::KeyReused(WriteId::FIRST)];
        assert_eq!(*coming.try_recv().expect("told"), first);
        let Lookup::Hit(known) = reply_cache.lookup(([1; 16], 1)) else { panic!("known") };
        assert_eq!(*known, first);
    }

    #[test]
    fn abandoned_waiter_is_removed() {
        let mut reply_cache = ReplyCache::default();
        drop(reply_cache.lookup(([1; 16], 1)));
        reply_cache.abandon(&([1; 16], 1));
        assert!(reply_cache.waiting.is_empty());
    }
}
