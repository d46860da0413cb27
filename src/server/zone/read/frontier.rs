//! The zone's frontier in this process: the newest applied id, and who waits for a later one.
//!
//! It follows the database. It goes back only when the database did (a restored backup), and then
//! waiters simply go on waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pghc_runtime::task::fair_watch;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::zone::ReadError;

/// Most characters of a reason that clients are told; the log has all of it.
const REASON_CHARS_MAX: usize = 1_000;

fn short(mut why: String) -> String {
    if let Some((end, _)) = why.char_indices().nth(REASON_CHARS_MAX) {
        why.truncate(end);
        why.push('…');
    }
    why
}

/// The watermark. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub(crate) struct Frontier {
    waiting: Mutex<Waiting>,
    id: fair_watch::Sender<u64>,
    /// The newest it ever was: what readers may have seen, whatever became of the database since.
    seen: AtomicU64,
    halted: fair_watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_ticket: u64,
    by_id: BTreeMap<(u64, u64), oneshot::Sender<u64>>,
}

impl Frontier {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            id: fair_watch::Sender::new(0),
            seen: AtomicU64::new(0),
            halted: fair_watch::Sender::new(None),
        }
    }

    /// Newest applied id; 0 while nothing is applied or known.
    pub(crate) fn id(&self) -> u64 {
        *self.id.borrow()
    }

    /// Newest id that was ever known to be applied here.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// No id above `id` was ever ordered: a changed database showed it, and readers need not wait for it.
    pub(crate) fn limit_seen(&self, id: u64) {
        self.seen.fetch_min(id, Ordering::AcqRel);
    }

    /// The id and its changes.
    pub(crate) fn changes(&self) -> fair_watch::Receiver<u64> {
        self.id.subscribe()
    }

    /// Why the zone has halted, and its changes.
    pub(crate) fn halts(&self) -> fair_watch::Receiver<Option<String>> {
        self.halted.subscribe()
    }

    /// Why the zone has halted.
    pub(crate) fn halted(&self) -> Option<String> {
        self.halted.borrow().clone()
    }

    /// The zone is at `id`: wakes exactly those who waited for it or less.
    pub(crate) fn set(&self, id: u64) {
        self.seen.fetch_max(id, Ordering::AcqRel);
        self.id.send_if_modified(|known| std::mem::replace(known, id) != id);
        let mut waiting = self.waiting.lock();
        let later = waiting.by_id.split_off(&(id.saturating_add(1), 0));
        let due = std::mem::replace(&mut waiting.by_id, later);
        drop(waiting);
        for waiter in due.into_values() {
            let _ = waiter.send(id);
        }
    }

    /// Marks the zone as halted, or as well again; waiters of a halted zone are told at once.
    pub(crate) fn set_halted(&self, why: Option<String>) {
        let why = why.map(short);
        let halts = why.is_some();
        self.halted.send_if_modified(|known| {
            let changes = *known != why;
            *known = why;
            changes
        });
        if halts {
            self.waiting.lock().by_id.clear();
        }
    }

    /// Newer words for why the zone has halted; nothing when it goes on again.
    pub(crate) fn reword_halted(&self, why: String) {
        let why = short(why);
        self.halted.send_if_modified(|known| match known {
            Some(known) if *known != why => {
                *known = why;
                true
            }
            _ => false,
        });
    }

    /// Waits until the zone is at `id` or further; answers where it is.
    ///
    /// # Errors
    /// `Behind` when the deadline passes, `Halted` when the zone halts.
    pub(crate) async fn reach(&self, id: u64, deadline: Instant) -> Result<u64, ReadError> {
        let (ticket, reached) = {
            let mut waiting = self.waiting.lock();
            let now = self.id();
            if now >= id {
                return Ok(now);
            }
            if let Some(why) = self.halted() {
                return Err(ReadError::Halted(why));
            }
            let ticket = waiting.next_ticket;
            waiting.next_ticket += 1;
            let (sender, reached) = oneshot::channel();
            waiting.by_id.insert((id, ticket), sender);
            (ticket, reached)
        };
        let _forget = Forget { frontier: self, place: (id, ticket) };
        match timeout_at(deadline, reached).await {
            Ok(Ok(now)) => Ok(now),
            Ok(Err(_)) => Err(ReadError::Halted(self.halted().unwrap_or_default())),
            Err(_) => Err(ReadError::Behind { frontier: self.id() }),
        }
    }
}

/// Removes a waiter that is gone, by deadline or because its client went away.
struct Forget<'a> {
    frontier: &'a Frontier,
    place: (u64, u64),
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.frontier.waiting.lock().by_id.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Frontier, ReadError};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn newest_seen_id_survives_a_restored_database() {
        let frontier = Frontier::new();
        frontier.set(7);
        frontier.set(3);
        assert_eq!((frontier.id(), frontier.seen()), (3, 7));
    }

    #[tokio::test]
    async fn waiter_is_woken_when_the_frontier_reaches_its_id() {
        let frontier = Arc::new(Frontier::new());
        let waits = [3, 5, 4].map(|id| {
            let frontier = Arc::clone(&frontier);
            async move { frontier.reach(id, soon()).await }
        });
        let advance = async {
            while frontier.waiting.lock().by_id.len() < 3 {
                tokio::task::yield_now().await;
            }
            frontier.set(4);
            frontier.set(5);
        };
        let (reached, ()) = tokio::join!(futures::future::join_all(waits), advance);
        assert_eq!(reached, [Ok(4), Ok(5), Ok(4)]);
        assert!(frontier.waiting.lock().by_id.is_empty());
    }

    #[tokio::test]
    async fn expired_wait_answers_the_frontier() {
        let frontier = Frontier::new();
        frontier.set(2);
        let past = Instant::now();
        assert_eq!(frontier.reach(2, past).await, Ok(2));
        assert_eq!(frontier.reach(3, past).await, Err(ReadError::Behind { frontier: 2 }));
        assert!(frontier.waiting.lock().by_id.is_empty());
    }

    #[test]
    fn new_words_do_not_halt_a_zone_that_goes_on() {
        let frontier = Frontier::new();
        frontier.reword_halted("from link 3".to_owned());
        assert_eq!(frontier.halted(), None);
        frontier.set_halted(Some("from link 3, perhaps".to_owned()));
        frontier.reword_halted("from link 2".to_owned());
        assert_eq!(frontier.halted().as_deref(), Some("from link 2"));
    }

    #[tokio::test]
    async fn halted_zone_ends_every_wait() {
        let frontier = Frontier::new();
        let halt = async { frontier.set_halted(Some("diverged".to_owned())) };
        let (waited, ()) = tokio::join!(frontier.reach(1, soon()), halt);
        assert_eq!(waited, Err(ReadError::Halted("diverged".to_owned())));
        assert_eq!(frontier.reach(1, soon()).await, Err(ReadError::Halted("diverged".to_owned())));
    }
}
