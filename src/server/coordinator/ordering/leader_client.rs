//! Commits a batch: proposes it here if this coordinator leads, else calls the leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::{ProposeReply, ProposeRequest};
use pghc_runtime::rpc::{Caller, MESSAGE_BYTES_MAX, is_connection_refused};
use pghc_runtime::task::Tasks;
use pghc_runtime::task::fair_watch;
use pghc_runtime::telemetry::Metrics;
use tokio::sync::{Semaphore, oneshot};

use super::proposer::{ProposeResult, Proposer};
use crate::coordinator::environment::Clock;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::raft::format_support::FormatSupport;
use crate::coordinator::raft::handle::Raft;
use crate::sequencer::{Entry, ZoneChange};

/// The leader that this coordinator knows, and its term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
}

/// Most attempts in flight; further ones end as `NotProposed`.
const ATTEMPTS_MAX: usize = 2_048;

#[derive(Clone)]
pub(crate) struct LeaderClient {
    id: u64,
    raft: Raft,
    proposer: Proposer,
    peers: PeerDirectory,
    format_support: FormatSupport,
    leadership: fair_watch::Receiver<Leadership>,
    metrics: Arc<Metrics>,
    clock: Clock,
    permits: Arc<Semaphore>,
    tasks: Tasks,
}

impl LeaderClient {
    pub(crate) fn new(
        id: u64,
        raft: &Raft,
        metrics: &Arc<Metrics>,
        peers: PeerDirectory,
        format_support: FormatSupport,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        let leadership = watch_leadership(id, raft, Arc::clone(metrics), peers.clone(), tasks);
        let (raft, metrics) = (raft.clone(), Arc::clone(metrics));
        let proposer = Proposer::start(&raft, tasks);
        let (permits, tasks) = (Arc::new(Semaphore::new(ATTEMPTS_MAX)), tasks.clone());
        Self {
            id,
            raft,
            proposer,
            peers,
            format_support,
            leadership,
            metrics,
            clock,
            permits,
            tasks,
        }
    }

    /// Returns the known leader and its changes.
    pub(crate) fn leadership(&self) -> fair_watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Whether this coordinator leads, by its own knowledge.
    pub(crate) fn leads(&self) -> bool {
        self.leadership.borrow().leader == Some(self.id)
    }

    /// Returns a client to the leader; `None` if this coordinator leads or no leader is known.
    pub(crate) fn leader(&self) -> Option<CoordinatorClient<Caller>> {
        let leader = self.leadership.borrow().leader.filter(|leader| *leader != self.id)?;
        let client = CoordinatorClient::new(self.peers.connection(leader)?);
        Some(
            client
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    /// Makes one attempt to commit `batch`, here or at the leader, within `deadline`.
    ///
    /// The attempt runs in a task of its own: a cancelled call would reset its HTTP/2 stream, and
    /// frequent resets end the connection.
    pub(crate) async fn attempt(&self, batch: Bytes, deadline: Duration) -> ProposeResult {
        let Ok(place) = Arc::clone(&self.permits).try_acquire_owned() else {
            return ProposeResult::NotProposed;
        };
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        self.tasks.spawn("propose attempt", async move {
            let attempt = tokio::time::timeout(deadline, this.try_once(batch, deadline)).await;
            let _ = sender.send(attempt.unwrap_or(ProposeResult::Unknown));
            drop(place);
        });
        receiver.await.unwrap_or(ProposeResult::Unknown)
    }

    async fn try_once(&self, batch: Bytes, deadline: Duration) -> ProposeResult {
        if self.leads() {
            return self.propose(batch).await;
        }
        self.ask_leader(ProposeRequest { batch, ..ProposeRequest::default() }, deadline).await
    }

    /// Same as [`LeaderClient::attempt`], for a change of the zone registry.
    pub(crate) async fn attempt_zone_change(
        &self,
        change: &ZoneChange,
        deadline: Duration,
    ) -> ProposeResult {
        if self.leads() {
            return self.propose_zone_change(change).await;
        }
        let zone_change = change.encode();
        self.ask_leader(ProposeRequest { zone_change, ..ProposeRequest::default() }, deadline).await
    }

    async fn ask_leader(&self, request: ProposeRequest, deadline: Duration) -> ProposeResult {
        let Some(mut leader) = self.leader() else { return ProposeResult::NotProposed };
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline);
        classify(leader.propose(request).await.map(tonic::Response::into_inner))
    }

    /// Proposes `batch` if this coordinator leads; returns when it is committed.
    pub(crate) async fn propose(&self, batch: Bytes) -> ProposeResult {
        let (entry, started) = (Entry { proposed_at: (self.clock)(), batch }, Instant::now());
        let attempt = self.append(entry.encode()).await;
        if attempt == ProposeResult::Committed {
            self.metrics.coordinator.commit_seconds.observe(started.elapsed().as_secs_f64());
        }
        attempt
    }

    /// Proposes a change of the zone registry if this coordinator leads and every member reads the
    /// format; returns when it is sequenced here.
    pub(crate) async fn propose_zone_change(&self, change: &ZoneChange) -> ProposeResult {
        if !self.format_support.all_support().await {
            return ProposeResult::NotReadable;
        }
        self.append(change.encode()).await
    }

    async fn append(&self, entry: Bytes) -> ProposeResult {
        // Connections may outlive a stopped consensus core. A stopped core gets no proposals, so
        // the caller learns that nothing was appended.
        if self.raft.metrics().borrow_watched().running_state.is_err() {
            return ProposeResult::NotProposed;
        }
        self.proposer.propose(entry).await
    }
}

/// Classifies a propose reply.
///
/// `NotProposed` only if the leader said so or the connection was refused; any other failure is
/// `Unknown`, because the entry may have been appended first.
fn classify(answer: Result<ProposeReply, tonic::Status>) -> ProposeResult {
    match answer {
        Ok(reply) if reply.accepted => ProposeResult::Committed,
        Ok(reply) if reply.no_space => ProposeResult::NoSpace,
        Ok(reply) if reply.not_readable => ProposeResult::NotReadable,
        Ok(_) => ProposeResult::NotProposed,
        Err(status) if is_connection_refused(&status) => ProposeResult::NotProposed,
        Err(_) => ProposeResult::Unknown,
    }
}

fn watch_leadership(
    id: u64,
    raft: &Raft,
    gauges: Arc<Metrics>,
    peers: PeerDirectory,
    tasks: &Tasks,
) -> fair_watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = fair_watch::channel(Leadership::default());
    tasks.spawn("leadership", async move {
        loop {
            let now = {
                let metrics = metrics.borrow_watched();
                peers.update(&metrics.membership_config);
                let term = metrics.vote.leader_id.term;
                Leadership { leader: metrics.current_leader, term }
            };
            if sender.send_if_modified(|known| std::mem::replace(known, now) != now) {
                tracing::info!(leader = now.leader, term = now.term, "leadership changed");
                gauges.coordinator.is_leader.set(u64::from(now.leader == Some(id)));
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use pghc_runtime::rpc::v1::ProposeReply;
    use tonic::{Code, Status};

    use super::{ProposeResult, classify};

    fn reply(accepted: bool, no_space: bool, not_readable: bool) -> ProposeReply {
        ProposeReply { accepted, no_space, not_readable, ..ProposeReply::default() }
    }

    #[test]
    fn reply_is_classified_by_the_leaders_result() {
        assert_eq!(classify(Ok(reply(true, false, false))), ProposeResult::Committed);
        assert_eq!(classify(Ok(reply(false, true, false))), ProposeResult::NoSpace);
        assert_eq!(classify(Ok(reply(false, false, true))), ProposeResult::NotReadable);
        assert_eq!(classify(Ok(reply(false, false, false))), ProposeResult::NotProposed);
    }

    #[test]
    fn failed_call_is_unknown_unless_connection_was_refused() {
        let from = |kind: ErrorKind| Status::from_error(Box::new(Error::from(kind)));
        assert_eq!(classify(Err(from(ErrorKind::ConnectionRefused))), ProposeResult::NotProposed);
        for kind in [ErrorKind::ConnectionReset, ErrorKind::TimedOut, ErrorKind::BrokenPipe] {
            assert_eq!(classify(Err(from(kind))), ProposeResult::Unknown, "{kind}");
        }
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Cancelled,
            Code::Internal,
            Code::FailedPrecondition,
        ] {
            assert_eq!(
                classify(Err(Status::new(code, "whatever"))),
                ProposeResult::Unknown,
                "{code}"
            );
        }
    }
}
