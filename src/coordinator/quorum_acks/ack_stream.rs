//! The way of acks to the other coordinators: one long-lived call to each, on a connection of its
//! own, so that no megabyte of entries is before them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::Stream;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::progress::ReplicationProgress;
use crate::coordinator::consensus::type_config::Member;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::network::Pacing;
use crate::rpc::v1;
use crate::rpc::v1::raft_client::RaftClient;
use crate::task::Tasks;

/// Pause before a coordinator is called again that takes no acks: one of an older build, or one that
/// is set so.
const DEAF_PAUSE: Duration = Duration::from_secs(60);

/// Bound of a connection attempt and of the silence of a connection that was pinged. A long one: without acks
/// a coordinator knows what is committed by the leader's word, half a round trip later.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause before it is looked again whether this coordinator is admitted.
const GATE_PAUSE: Duration = Duration::from_millis(50);

/// Keeps a sender for every other member.
pub(crate) struct AckStream {
    id: u64,
    board: ReplicationProgress,
    traffic_guard: RaftTrafficGuard,
    peers: PeerDirectory,
    raft: Raft,
    tasks: Tasks,
}

impl AckStream {
    /// Starts the task if acks are told by this coordinator, `id`.
    pub(crate) fn start(
        id: u64,
        board: &ReplicationProgress,
        traffic_guard: &RaftTrafficGuard,
        peers: &PeerDirectory,
        raft: &Raft,
        tasks: &Tasks,
    ) {
        if board.is_on() {
            let (board, traffic_guard, peers) =
                (board.clone(), traffic_guard.clone(), peers.clone());
            let sending =
                Self { id, board, traffic_guard, peers, raft: raft.clone(), tasks: tasks.clone() };
            tasks.spawn("sending acks", sending.run());
        }
    }

    /// Runs until it is dropped.
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
                    self.tasks.spawn("acks to one coordinator", async move {
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

    fn sender(&self, to: u64, member: &Member) -> Sender {
        let url = self.peers.url(to, Some(member));
        Sender {
            id: self.id,
            to,
            url,
            incarnation: member.incarnation.clone(),
            board: self.board.clone(),
            traffic_guard: self.traffic_guard.clone(),
            peers: self.peers.clone(),
        }
    }
}

/// The way to one coordinator.
struct Sender {
    id: u64,
    to: u64,
    /// None: nobody has said where it is.
    url: Option<String>,
    incarnation: String,
    board: ReplicationProgress,
    traffic_guard: RaftTrafficGuard,
    peers: PeerDirectory,
}

impl Sender {
    async fn run(self) {
        let Some(connection) =
            self.url.as_deref().and_then(|url| self.peers.connect_within(url, PATIENCE))
        else {
            return;
        };
        let mut client = RaftClient::new(connection);
        let mut pacing = Pacing::default();
        let mut is_deaf = false;
        loop {
            while !self.traffic_guard.is_admitted() {
                sleep(GATE_PAUSE).await;
            }
            let begun = Instant::now();
            let call = self.traffic_guard.address(self.acks(), &self.incarnation);
            // It should not end: an answer is no better than an error.
            let ended = client.acks(call).await.err();
            if ended.as_ref().map(tonic::Status::code) == Some(tonic::Code::Unimplemented) {
                if !std::mem::replace(&mut is_deaf, true) {
                    tracing::info!(coordinator = self.to, "it takes no acks");
                }
                sleep(DEAF_PAUSE).await;
                continue;
            }
            if pacing.ended(begun.elapsed()) {
                tracing::debug!(coordinator = self.to, error = ?ended, "acks do not reach it");
            }
            sleep(pacing.pause()).await;
        }
    }

    /// The own acks as they come, without end; of those that wait only the newest. Left out is what
    /// nobody could count: a learner's, and what the addressee as leader is told by its appends.
    fn acks(&self) -> impl Stream<Item = v1::Ack> + Send + use<> {
        let (own, peers) = (self.board.own(), self.peers.clone());
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
