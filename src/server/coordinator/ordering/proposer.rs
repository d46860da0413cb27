//! Groups proposals for the consensus core.
//!
//! Entries that are appended together share one flush, one message and one transaction. An idle
//! core gets each proposal alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use pghc_runtime::task::{Tasks, until};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::coordinator::consensus::type_config::{Proposal, TypeConfig};
use crate::coordinator::raft::handle::Raft;
use crate::linger::AdaptiveLinger;

/// Most queued proposals; further ones are rejected.
const QUEUE_MAX: usize = 2_048;

/// Most bytes of proposals queued or in flight; a larger proposal is accepted only alone.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// Most proposals of one group.
const GROUP_ENTRIES_MAX: usize = 64;

/// Longest time that a proposal is held for a group.
const LINGER_MAX: Duration = Duration::from_millis(8);

/// Groups in flight; further ones wait.
const GROUPS_MAX: usize = 64;

/// Result of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProposeResult {
    /// The entry is committed.
    Committed,
    /// Nothing was appended.
    NotProposed,
    /// Nothing was appended: the leader is below its disk reserve.
    NoSpace,
    /// Nothing was appended: a member has not confirmed that it reads this format.
    NotReadable,
    /// The entry may or may not be in the log; a resend is recognised.
    Unknown,
}

/// An entry and the sender of its result.
struct Proposed {
    entry: Bytes,
    answer: oneshot::Sender<ProposeResult>,
    reservation: Reservation,
}

/// Bytes reserved for a proposal until it is committed or abandoned.
struct Reservation {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Reservation {
    /// Reserves `bytes`; `None` above [`IN_FLIGHT_BYTES_MAX`].
    fn take(taken: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let more = |taken: usize| {
            (taken == 0 || taken + bytes <= IN_FLIGHT_BYTES_MAX).then_some(taken + bytes)
        };
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { taken: Arc::clone(taken), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Queue into this coordinator's consensus core. Clones share it.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposed>,
    taken: Arc<AtomicUsize>,
}

impl Proposer {
    pub(crate) fn start(raft: &Raft, tasks: &Tasks) -> Self {
        let (queue, arriving) = mpsc::channel(QUEUE_MAX);
        let worker = Worker { raft: raft.clone(), linger: AdaptiveLinger::new(LINGER_MAX) };
        tasks.spawn("propose", worker.run(arriving));
        Self { queue, taken: Arc::default() }
    }

    /// Proposes `entry` if this coordinator leads; returns when it is committed.
    pub(crate) async fn propose(&self, entry: Bytes) -> ProposeResult {
        let (answer, answered) = oneshot::channel();
        let Some(reservation) = Reservation::take(&self.taken, entry.len()) else {
            return ProposeResult::NotProposed;
        };
        if self.queue.try_send(Proposed { entry, answer, reservation }).is_err() {
            return ProposeResult::NotProposed;
        }
        answered.await.unwrap_or(ProposeResult::Unknown)
    }
}

/// Task behind the queue.
struct Worker {
    raft: Raft,
    linger: AdaptiveLinger,
}

impl Worker {
    async fn run(mut self, mut arriving: mpsc::Receiver<Proposed>) {
        let mut waiting: Vec<Proposed> = Vec::new();
        let mut groups = FuturesUnordered::new();
        loop {
            // Abandoned proposals were not appended and have no receiver.
            waiting.retain(|proposed| !proposed.answer.is_closed());
            if waiting.is_empty() {
                self.linger.on_idle();
            }
            let mut held_until = None;
            let has_space = waiting.len() < GROUP_ENTRIES_MAX;
            if !waiting.is_empty() && groups.len() < GROUPS_MAX {
                let now = Instant::now();
                held_until = self.linger.hold_until(waiting.len(), now).filter(|_| has_space);
                if held_until.is_none() {
                    self.linger.on_send(now);
                    groups.push(append(self.raft.clone(), std::mem::take(&mut waiting)));
                }
            }
            tokio::select! {
                biased;
                Some(GroupResult { duration, count }) = groups.next() => {
                    if let Some(duration) = duration {
                        self.linger.on_reply(count, Instant::now());
                        self.linger.record_rtt(duration);
                    }
                }
                () = until(held_until) => {}
                proposed = arriving.recv(), if waiting.len() < GROUP_ENTRIES_MAX => match proposed {
                    Some(proposed) => self.enqueue(&mut waiting, proposed),
                    None => return,
                },
            }
            while waiting.len() < GROUP_ENTRIES_MAX
                && let Ok(proposed) = arriving.try_recv()
            {
                self.enqueue(&mut waiting, proposed);
            }
        }
    }

    fn enqueue(&mut self, waiting: &mut Vec<Proposed>, proposed: Proposed) {
        self.linger.on_enqueue();
        waiting.push(proposed);
    }
}

/// Result of one group.
struct GroupResult {
    /// Time until the last commit; `None` without a commit, since a fast rejection is no
    /// measurement.
    duration: Option<Duration>,
    count: usize,
}

/// Appends a group and waits for its commits.
async fn append(raft: Raft, group: Vec<Proposed>) -> GroupResult {
    let (started, count, mut any_committed) = (Instant::now(), group.len(), false);
    // A proposal keeps its reserved bytes until it is answered, even without a receiver.
    let (entries, answers): (Vec<_>, Vec<_>) =
        group.into_iter().map(|it| (Proposal(it.entry), (it.answer, it.reservation))).unzip();
    match raft.client_write_many(entries).await {
        Ok(results) => {
            // A stopping core ends the stream before every entry is answered.
            let mut results = results.fuse();
            for (answer, _reservation) in answers {
                let attempt = attempt(results.next().await);
                any_committed |= attempt == ProposeResult::Committed;
                let _ = answer.send(attempt);
            }
        }
        // The core has stopped and did not get the entries.
        Err(_) => answers.into_iter().for_each(|(answer, _reservation)| {
            let _ = answer.send(ProposeResult::NotProposed);
        }),
    }
    GroupResult { duration: any_committed.then(|| started.elapsed()), count }
}

/// Classifies one entry's result. openraft reports "forward to leader" before it appends. A
/// discarded entry was appended and cut again: another leader may commit it.
fn attempt(result: Option<Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>>) -> ProposeResult {
    match result {
        Some(Ok(Ok(_))) => ProposeResult::Committed,
        Some(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => ProposeResult::NotProposed,
        Some(Ok(Err(_)) | Err(_)) | None => ProposeResult::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader};

    use super::{IN_FLIGHT_BYTES_MAX, ProposeResult, Reservation, attempt};

    #[test]
    fn only_unappended_entry_counts_as_not_proposed() {
        let elsewhere = || ForwardToLeader::empty();
        let refused = attempt(Some(Ok(Err(ClientWriteError::ForwardToLeader(elsewhere())))));
        assert_eq!(refused, ProposeResult::NotProposed);
        let cut = attempt(Some(Ok(Err(ClientWriteError::LogEntryDiscarded(elsewhere())))));
        assert_eq!(cut, ProposeResult::Unknown, "a later leader may have it");
        assert_eq!(attempt(Some(Err(Fatal::Stopped))), ProposeResult::Unknown);
        assert_eq!(attempt(None), ProposeResult::Unknown);
    }

    #[test]
    fn proposal_bytes_are_bounded_except_for_a_lone_one() {
        let taken = Arc::default();
        let large = Reservation::take(&taken, IN_FLIGHT_BYTES_MAX + 1).expect("nothing is taken");
        assert!(Reservation::take(&taken, 1).is_none());
        drop(large);
        let half = Reservation::take(&taken, IN_FLIGHT_BYTES_MAX / 2).expect("there is room");
        let rest = Reservation::take(&taken, IN_FLIGHT_BYTES_MAX / 2).expect("there is room");
        assert!(Reservation::take(&taken, 1).is_none());
        drop((half, rest));
        assert!(Reservation::take(&taken, IN_FLIGHT_BYTES_MAX).is_some());
    }
}
