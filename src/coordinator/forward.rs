//! Gets a batch into the log: proposes it here when this coordinator leads, else asks the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use pghc_api::id::ClusterId;
use pghc_api::time::Micros;
use tokio::sync::watch;

use super::type_config::{Proposal, Raft};
use crate::rpc::v1::ProposeRequest;
use crate::rpc::v1::coordinator_client::CoordinatorClient;
use crate::rpc::{self, Caller, MESSAGE_BYTES_MAX, never_sent};
use crate::sequencer::Entry;
use crate::task::Tasks;
use crate::telemetry::Metrics;

/// Who leads, as far as this coordinator knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Leadership {
    pub(super) leader: Option<u64>,
    pub(super) term: u64,
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The entry is committed.
    Committed,
    /// Nothing was appended.
    NotTaken,
    /// It may or may not be in the log; a resend is recognised.
    Unknown,
}

#[derive(Clone)]
pub(super) struct Forward {
    id: u64,
    raft: Raft,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    metrics: Arc<Metrics>,
}

/// Clients to all coordinators.
pub(super) type Peers = BTreeMap<u64, CoordinatorClient<Caller>>;

/// Makes a client to each of `urls`.
///
/// # Errors
/// If an address is not a URL.
pub(super) fn peers(
    cluster: &ClusterId,
    urls: &BTreeMap<u64, String>,
    patience: Duration,
) -> Result<Peers, tonic::transport::Error> {
    let client = |(id, url): (&u64, &String)| {
        let caller = rpc::connect(url, cluster, patience)?;
        let client = CoordinatorClient::new(caller)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((*id, client))
    };
    urls.iter().map(client).collect()
}

impl Forward {
    pub(super) fn new(
        id: u64,
        raft: &Raft,
        metrics: &Arc<Metrics>,
        peers: Peers,
        tasks: &Tasks,
    ) -> Self {
        let leadership = watch_leadership(id, raft, Arc::clone(metrics), tasks);
        let (raft, metrics) = (raft.clone(), Arc::clone(metrics));
        Self { id, raft, peers: Arc::new(peers), leadership, metrics }
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The leader and its changes.
    pub(super) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// A client to the leader, unless this coordinator is it or none is known.
    pub(super) fn leader(&self) -> Option<CoordinatorClient<Caller>> {
        let leader = self.leadership.borrow().leader.filter(|leader| *leader != self.id)?;
        self.peers.get(&leader).cloned()
    }

    /// Tries once to have `batch` committed, here or by the leader, within `deadline`.
    pub(super) async fn attempt(&self, batch: Bytes, deadline: Duration) -> Attempt {
        if self.leadership.borrow().leader == Some(self.id) {
            return self.propose(batch).await;
        }
        let Some(mut leader) = self.leader() else { return Attempt::NotTaken };
        let mut request = tonic::Request::new(ProposeRequest { batch });
        request.set_timeout(deadline);
        match leader.propose(request).await {
            Ok(reply) if reply.get_ref().accepted => Attempt::Committed,
            Ok(_) => Attempt::NotTaken,
            Err(status) if never_sent(&status) => Attempt::NotTaken,
            Err(_) => Attempt::Unknown,
        }
    }

    /// Appends `batch` to the log if this coordinator leads; ends when it is committed.
    pub(super) async fn propose(&self, batch: Bytes) -> Attempt {
        let (entry, started) = (Entry { proposed_at: now(), batch }, Instant::now());
        match self.raft.client_write(Proposal(entry.encode())).await {
            Ok(_) => {
                let took = started.elapsed().as_secs_f64();
                self.metrics.coordinator.commit_seconds.observe(took);
                Attempt::Committed
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Attempt::NotTaken,
            Err(_) => Attempt::Unknown,
        }
    }
}

/// The wall clock, read by the leader only; the sequencer keeps commit times from going back.
fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}

fn watch_leadership(
    id: u64,
    raft: &Raft,
    gauges: Arc<Metrics>,
    tasks: &Tasks,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(Leadership::default());
    tasks.spawn("leadership", async move {
        loop {
            let now = {
                let metrics = metrics.borrow_watched();
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
