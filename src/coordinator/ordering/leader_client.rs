//! Gets a batch into the log: proposes it here when this coordinator leads, else asks the leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{Semaphore, oneshot};

use super::proposer::{ProposeResult, Proposer};
use crate::coordinator::environment::Clock;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::raft::format_support::FormatSupport;
use crate::coordinator::raft::handle::Raft;
use crate::rpc::v1::coordinator_client::CoordinatorClient;
use crate::rpc::v1::{ProposeReply, ProposeRequest};
use crate::rpc::{Caller, MESSAGE_BYTES_MAX, never_sent};
use crate::sequencer::{Entry, Heading, ZoneChange};
use crate::task::Tasks;
use crate::task::watch;
use crate::telemetry::Metrics;

/// Who leads, as far as this coordinator knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
}

/// Attempts under way; further ones count as not taken.
const ATTEMPTS_MAX: usize = 2_048;

#[derive(Clone)]
pub(crate) struct LeaderClient {
    id: u64,
    raft: Raft,
    proposer: Proposer,
    peers: PeerDirectory,
    format_support: FormatSupport,
    leadership: watch::Receiver<Leadership>,
    metrics: Arc<Metrics>,
    clock: Clock,
    places: Arc<Semaphore>,
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
        let (places, tasks) = (Arc::new(Semaphore::new(ATTEMPTS_MAX)), tasks.clone());
        Self {
            id,
            raft,
            proposer,
            peers,
            format_support,
            leadership,
            metrics,
            clock,
            places,
            tasks,
        }
    }

    /// The leader and its changes.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Whether this coordinator leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.leadership.borrow().leader == Some(self.id)
    }

    /// A client to the leader, unless this coordinator is it or none is known.
    pub(crate) fn leader(&self) -> Option<CoordinatorClient<Caller>> {
        let leader = self.leadership.borrow().leader.filter(|leader| *leader != self.id)?;
        let client = CoordinatorClient::new(self.peers.connection(leader)?);
        Some(
            client
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    /// Tries once to have `batch` committed, here or by the leader, within `deadline`. Who waits for
    /// it may go away: the attempt itself goes on. A call that is given up while its answer is on the
    /// way resets its stream, and HTTP/2 ends a connection on which that happens too often.
    pub(crate) async fn attempt(&self, batch: Bytes, deadline: Duration) -> ProposeResult {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return ProposeResult::NotProposed;
        };
        let (tell, told) = oneshot::channel();
        let this = self.clone();
        self.tasks.spawn("attempt to order a batch", async move {
            let attempt = tokio::time::timeout(deadline, this.try_once(batch, deadline)).await;
            let _ = tell.send(attempt.unwrap_or(ProposeResult::Unknown));
            drop(place);
        });
        told.await.unwrap_or(ProposeResult::Unknown)
    }

    async fn try_once(&self, batch: Bytes, deadline: Duration) -> ProposeResult {
        if self.leads() {
            return self.propose(batch).await;
        }
        self.ask_leader(ProposeRequest { batch, ..ProposeRequest::default() }, deadline).await
    }

    /// As [`LeaderClient::attempt`], for a change of the registry of zones.
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

    /// Appends `batch` to the log if this coordinator leads; ends when it is committed.
    pub(crate) async fn propose(&self, batch: Bytes) -> ProposeResult {
        let writes = Heading::read(&batch).map_or(1, |heading| heading.count);
        let (entry, started) = (Entry { proposed_at: (self.clock)(), batch }, Instant::now());
        let attempt = self.append(entry.encode(), writes).await;
        if attempt == ProposeResult::Committed {
            self.metrics.coordinator.commit_seconds.observe(started.elapsed().as_secs_f64());
        }
        attempt
    }

    /// Appends a change of the registry of zones to the log if this coordinator leads and all members
    /// can read it; ends when it is committed and carried out here.
    pub(crate) async fn propose_zone_change(&self, change: &ZoneChange) -> ProposeResult {
        if !self.format_support.all_support().await {
            return ProposeResult::NotReadable;
        }
        self.append(change.encode(), 1).await
    }

    async fn append(&self, entry: Bytes, writes: usize) -> ProposeResult {
        // Connections may outlive a consensus core that has stopped. It is given nothing any more, so
        // the caller need not take the batch for one that may be in the log.
        if self.raft.metrics().borrow_watched().running_state.is_err() {
            return ProposeResult::NotProposed;
        }
        self.proposer.propose(entry, writes).await
    }
}

/// What the leader's answer says of the entry. Only what it says itself, or a call that never left, is
/// "nothing was appended"; every other failure may have come after the entry did.
fn classify(answer: Result<ProposeReply, tonic::Status>) -> ProposeResult {
    match answer {
        Ok(reply) if reply.accepted => ProposeResult::Committed,
        Ok(reply) if reply.no_space => ProposeResult::NoSpace,
        Ok(reply) if reply.not_readable => ProposeResult::NotReadable,
        Ok(_) => ProposeResult::NotProposed,
        Err(status) if never_sent(&status) => ProposeResult::NotProposed,
        Err(_) => ProposeResult::Unknown,
    }
}

fn watch_leadership(
    id: u64,
    raft: &Raft,
    gauges: Arc<Metrics>,
    peers: PeerDirectory,
    tasks: &Tasks,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(Leadership::default());
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

    use tonic::{Code, Status};

    use super::{ProposeResult, classify};
    use crate::rpc::v1::ProposeReply;

    fn reply(accepted: bool, no_space: bool, not_readable: bool) -> ProposeReply {
        ProposeReply { accepted, no_space, not_readable, ..ProposeReply::default() }
    }

    #[test]
    fn only_the_leaders_word_says_what_became_of_an_entry() {
        assert_eq!(classify(Ok(reply(true, false, false))), ProposeResult::Committed);
        assert_eq!(classify(Ok(reply(false, true, false))), ProposeResult::NoSpace);
        assert_eq!(classify(Ok(reply(false, false, true))), ProposeResult::NotReadable);
        assert_eq!(classify(Ok(reply(false, false, false))), ProposeResult::NotProposed);
    }

    #[test]
    fn a_failed_call_may_have_appended_unless_nobody_listened() {
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
