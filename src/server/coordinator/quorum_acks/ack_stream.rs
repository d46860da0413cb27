//! Streams acks to the other coordinators: one long-lived call and one connection for each.
//!
//! A connection of their own keeps acks ahead of megabytes of entries.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::Stream;
use openraft::async_runtime::watch::WatchReceiver as _;
use pghc_runtime::rpc::v1;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::task::Tasks;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::progress::ReplicationProgress;
use crate::coordinator::consensus::type_config::Member;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::network::ReopenBackoff;

/// Pause before another call to a coordinator that accepts no acks (older build or `acks =
/// "leader"`).
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(60);

/// Deadline of a connection attempt and of a ping's reply. Long, because acks only save time:
/// without them a coordinator learns of commits from its leader, half a round trip later.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two polls of the admission.
const ADMISSION_POLL: Duration = Duration::from_millis(50);

/// Runs one sender for every other member.
pub(crate) struct AckStream {
    id: u64,
    progress: ReplicationProgress,
    traffic_guard: RaftTrafficGuard,
    peers: PeerDirectory,
    raft: Raft,
    tasks: Tasks,
}

impl AckStream {
    /// Starts the task if coordinator `id` sends acks.
    pub(crate) fn start(
        id: u64,
        progress: &ReplicationProgress,
        traffic_guard: &RaftTrafficGuard,
        peers: &PeerDirectory,
        raft: &Raft,
        tasks: &Tasks,
    ) {
        if progress.is_on() {
            let (progress, traffic_guard, peers) =
                (progress.clone(), traffic_guard.clone(), peers.clone());
            let ack_stream = Self {
                id,
                progress,
                traffic_guard,
                peers,
                raft: raft.clone(),
                tasks: tasks.clone(),
            };
            tasks.spawn("ack streams", ack_stream.run());
        }
    }

    /// Runs until dropped.
    async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        let mut senders: BTreeMap<u64, (Member, DropGuard)> = BTreeMap::new();
        loop {
            let members: BTreeMap<u64, Member> = {
                let metrics = metrics.borrow_watched();
                let nodes = metrics.membership_config.nodes();
                nodes.map(|(id, member)| (*id, member.clone())).collect()
            };
            senders.retain(|id, (member, _)| members.get(id) == Some(member));
            for (id, member) in members {
                if id != self.id && !senders.contains_key(&id) {
                    let ends = CancellationToken::new();
                    let sender = self.sender(id, &member);
                    let ended = ends.clone();
                    self.tasks.spawn("ack stream", async move {
                        tokio::select! {
                            biased;
                            () = ended.cancelled() => {}
                            () = sender.run() => {}
                        }
                    });
                    senders.insert(id, (member, ends.drop_guard()));
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn sender(&self, to: u64, member: &Member) -> PeerSender {
        let url = self.peers.url(to, Some(member));
        PeerSender {
            id: self.id,
            to,
            url,
            incarnation: member.incarnation.clone(),
            progress: self.progress.clone(),
            traffic_guard: self.traffic_guard.clone(),
            peers: self.peers.clone(),
        }
    }
}

/// Sends acks to one coordinator.
struct PeerSender {
    id: u64,
    to: u64,
    /// `None` if its address is unknown.
    url: Option<String>,
    incarnation: String,
    progress: ReplicationProgress,
    traffic_guard: RaftTrafficGuard,
    peers: PeerDirectory,
}

impl PeerSender {
    async fn run(self) {
        let Some(connection) =
            self.url.as_deref().and_then(|url| self.peers.connect_within(url, ACK_TIMEOUT))
        else {
            return;
        };
        let mut client = RaftClient::new(connection);
        let mut pacing = ReopenBackoff::default();
        let mut is_deaf = false;
        loop {
            while !self.traffic_guard.is_admitted() {
                sleep(ADMISSION_POLL).await;
            }
            let begun = Instant::now();
            let call = self.traffic_guard.stamp(self.acks(), &self.incarnation);
            // The call has no regular end: a reply counts as an error.
            let ended = client.acks(call).await.err();
            if ended.as_ref().map(tonic::Status::code) == Some(tonic::Code::Unimplemented) {
                if !std::mem::replace(&mut is_deaf, true) {
                    tracing::info!(coordinator = self.to, "peer accepts no acks");
                }
                sleep(UNSUPPORTED_PAUSE).await;
                continue;
            }
            if pacing.ended(begun.elapsed()) {
                tracing::debug!(coordinator = self.to, error = ?ended, "ack stream failed");
            }
            sleep(pacing.pause()).await;
        }
    }

    /// Streams this coordinator's acks without end; of queued acks only the newest. Omitted are a learner's
    /// acks, and those that the addressee as leader gets from its appends.
    fn acks(&self) -> impl Stream<Item = v1::Ack> + Send + use<> {
        let (own, peers) = (self.progress.own(), self.peers.clone());
        let (id, to) = (self.id, self.to);
        futures::stream::unfold((own, peers), move |(mut own, peers)| async move {
            loop {
                own.changed().await.ok()?;
                let newest = *own.borrow_and_update();
                if let Some(ack) = newest.filter(|ack| ack.vote.node != to && peers.votes(id)) {
                    return Some((v1::Ack::from(&ack), (own, peers)));
                }
            }
        })
    }
}
