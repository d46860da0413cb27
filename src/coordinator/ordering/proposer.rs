//! Hands what is proposed to consensus: alone where the machine has time, together where it is busy,
//! since entries that are appended together cost one flush, one message and one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::coordinator::consensus::type_config::{Proposal, TypeConfig};
use crate::coordinator::raft::handle::Raft;
use crate::linger::AdaptiveLinger;
use crate::task::{Tasks, until};

/// Proposals that wait to be handed over; further ones are not taken.
const WAITING_MAX: usize = 2_048;

/// Bytes of proposals that wait or are under way; a further one is taken only where there is none.
const TAKEN_BYTES_MAX: usize = 64 << 20;

/// Proposals handed over at a time.
const TOGETHER_MAX: usize = 64;

/// Longest that a proposal is kept for others to come along.
const LINGER_MAX: Duration = Duration::from_millis(8);

/// Groups under way; more wait.
const GROUPS_MAX: usize = 64;

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProposeResult {
    /// The entry is committed.
    Committed,
    /// Nothing was appended.
    NotProposed,
    /// Nothing was appended: the leader's disk is nearly full.
    NoSpace,
    /// Nothing was appended: not every member has said that it reads such an entry.
    NotReadable,
    /// It may or may not be in the log; a resend is recognised.
    Unknown,
}

/// An entry and who waits for what becomes of it.
struct Proposed {
    entry: Bytes,
    writes: usize,
    answer: oneshot::Sender<ProposeResult>,
    room: Room,
}

/// Bytes of a proposal that are taken until it is committed or given up.
struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// `None` when too much is taken already.
    fn take(taken: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let more = |taken: usize| {
            (taken == 0 || taken + bytes <= TAKEN_BYTES_MAX).then_some(taken + bytes)
        };
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { taken: Arc::clone(taken), bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The way into this coordinator's consensus. Clones are the same way.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposed>,
    taken: Arc<AtomicUsize>,
}

impl Proposer {
    pub(crate) fn start(raft: &Raft, tasks: &Tasks) -> Self {
        let (queue, arriving) = mpsc::channel(WAITING_MAX);
        let worker = Worker { raft: raft.clone(), linger: AdaptiveLinger::new(LINGER_MAX) };
        tasks.spawn("propose", worker.run(arriving));
        Self { queue, taken: Arc::default() }
    }

    /// Appends `entry` to the log if this coordinator leads; ends when it is committed.
    /// It holds so many `writes`.
    pub(crate) async fn propose(&self, entry: Bytes, writes: usize) -> ProposeResult {
        let (answer, answered) = oneshot::channel();
        let Some(room) = Room::take(&self.taken, entry.len()) else {
            return ProposeResult::NotProposed;
        };
        if self.queue.try_send(Proposed { entry, writes, answer, room }).is_err() {
            return ProposeResult::NotProposed;
        }
        answered.await.unwrap_or(ProposeResult::Unknown)
    }
}

/// The task behind the queue.
struct Worker {
    raft: Raft,
    linger: AdaptiveLinger,
}

impl Worker {
    async fn run(mut self, mut arriving: mpsc::Receiver<Proposed>) {
        let mut waiting: Vec<Proposed> = Vec::new();
        let mut groups = FuturesUnordered::new();
        loop {
            // Nothing of it was appended, and nobody is told.
            waiting.retain(|proposed| !proposed.answer.is_closed());
            if waiting.is_empty() {
                self.linger.on_idle();
            }
            let mut kept_until = None;
            let has_room = waiting.len() < TOGETHER_MAX;
            if !waiting.is_empty() && groups.len() < GROUPS_MAX {
                let now = Instant::now();
                kept_until = self.linger.hold_until(waiting.len(), now).filter(|_| has_room);
                if kept_until.is_none() {
                    let writes = waiting.iter().map(|proposed| proposed.writes).sum();
                    self.linger.on_send(writes, now);
                    groups.push(append(self.raft.clone(), std::mem::take(&mut waiting)));
                }
            }
            tokio::select! {
                biased;
                Some(Ended { took, count }) = groups.next() => {
                    if let Some(took) = took {
                        self.linger.on_reply(count, Instant::now());
                        self.linger.record_rtt(took);
                    }
                }
                () = until(kept_until) => {}
                proposed = arriving.recv(), if waiting.len() < TOGETHER_MAX => match proposed {
                    Some(proposed) => self.arrived(&mut waiting, proposed),
                    None => return,
                },
            }
            while waiting.len() < TOGETHER_MAX
                && let Ok(proposed) = arriving.try_recv()
            {
                self.arrived(&mut waiting, proposed);
            }
        }
    }

    fn arrived(&mut self, waiting: &mut Vec<Proposed>, proposed: Proposed) {
        self.linger.on_enqueue();
        waiting.push(proposed);
    }
}

/// What became of proposals that were handed over together.
struct Ended {
    /// How long it took until the last was committed; `None`: none was, and what is refused at once
    /// says nothing of how long things take.
    took: Option<Duration>,
    count: usize,
}

/// Has `together` committed.
async fn append(raft: Raft, together: Vec<Proposed>) -> Ended {
    let (started, count, mut any_committed) = (Instant::now(), together.len(), false);
    // Each keeps its room until it is answered, also where nobody waits any more.
    let (entries, answers): (Vec<_>, Vec<_>) =
        together.into_iter().map(|it| (Proposal(it.entry), (it.answer, it.room))).unzip();
    match raft.client_write_many(entries).await {
        Ok(results) => {
            // When consensus stops, it ends before all are answered.
            let mut results = results.fuse();
            for (answer, _room) in answers {
                let attempt = attempt(results.next().await);
                any_committed |= attempt == ProposeResult::Committed;
                let _ = answer.send(attempt);
            }
        }
        // It has stopped, and was not even handed the entries.
        Err(_) => answers.into_iter().for_each(|(answer, _room)| {
            let _ = answer.send(ProposeResult::NotProposed);
        }),
    }
    Ended { took: any_committed.then(|| started.elapsed()), count }
}

/// What became of one entry. openraft says "forward to the leader" before it appends; of an entry that
/// it appended and had to cut again it says that it was discarded: another leader may commit it.
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

    use super::{ProposeResult, Room, TAKEN_BYTES_MAX, attempt};

    #[test]
    fn only_what_was_never_appended_counts_as_not_taken() {
        let elsewhere = || ForwardToLeader::empty();
        let refused = attempt(Some(Ok(Err(ClientWriteError::ForwardToLeader(elsewhere())))));
        assert_eq!(refused, ProposeResult::NotProposed);
        let cut = attempt(Some(Ok(Err(ClientWriteError::LogEntryDiscarded(elsewhere())))));
        assert_eq!(cut, ProposeResult::Unknown, "a later leader may have it");
        assert_eq!(attempt(Some(Err(Fatal::Stopped))), ProposeResult::Unknown);
        assert_eq!(attempt(None), ProposeResult::Unknown);
    }

    #[test]
    fn no_more_bytes_are_taken_than_there_is_room_for_unless_nothing_is() {
        let taken = Arc::default();
        let large = Room::take(&taken, TAKEN_BYTES_MAX + 1).expect("nothing is taken");
        assert!(Room::take(&taken, 1).is_none());
        drop(large);
        let half = Room::take(&taken, TAKEN_BYTES_MAX / 2).expect("there is room");
        let rest = Room::take(&taken, TAKEN_BYTES_MAX / 2).expect("there is room");
        assert!(Room::take(&taken, 1).is_none());
        drop((half, rest));
        assert!(Room::take(&taken, TAKEN_BYTES_MAX).is_some());
    }
}
