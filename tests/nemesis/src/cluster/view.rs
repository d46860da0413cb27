//! Polled state of the cluster: the leader, the appliers, and the frontier of each zone.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use pghc_api::wire::{Status, ZoneState};
use pghc_lab::client::{Connection, get};

use super::{Cluster, ZONES};

/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time of one answer within a poll.
const ANSWER_MAX: Duration = Duration::from_millis(800);
/// Longest time of one answer when all answers are awaited.
const READY_MAX: Duration = Duration::from_secs(3);

/// Result of one poll.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Zone of the leader of the newest term.
    pub leader: Option<usize>,
    /// The newest term.
    pub term: u64,
    /// Node name of each zone's applier.
    pub appliers: Vec<Option<String>>,
    /// Newest committed id anyone knows.
    pub head: u64,
    /// Each node's own frontier; `None` when it did not answer or is not ready.
    pub frontiers: Vec<Option<u64>>,
    /// Reasons for which the cluster is not whole.
    pub troubles: Vec<String>,
}

/// The newest poll.
#[derive(Debug, Default)]
pub struct View {
    newest: Mutex<Look>,
}

impl View {
    /// The newest poll.
    pub fn look(&self) -> Look {
        self.newest.lock().clone()
    }

    /// Polls until the task is dropped.
    pub async fn watch(self: Arc<Self>, cluster: Arc<Cluster>) {
        loop {
            let look = Self::ask(&cluster).await;
            *self.newest.lock() = look;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks every API node.
    pub async fn ask(cluster: &Cluster) -> Look {
        Self::ask_for(cluster, ANSWER_MAX).await
    }

    async fn ask_for(cluster: &Cluster, longest: Duration) -> Look {
        let nodes = cluster.nodes();
        let asked = nodes.iter().map(|(_, address)| status(*address, longest));
        let answers = futures::future::join_all(asked).await;
        let mut look = Look { appliers: vec![None; ZONES], ..Look::default() };
        for ((zone, address), answer) in nodes.into_iter().zip(answers) {
            let Some(status) = answer else {
                look.frontiers.push(None);
                look.troubles.push(format!("{address} does not answer"));
                continue;
            };
            look.take(zone, &status);
        }
        let head = look.head;
        if look.frontiers.iter().any(|frontier| *frontier != Some(head)) {
            look.troubles.push(format!("head {head}, frontiers {:?}", look.frontiers));
        }
        look
    }

    /// Asks whether every node is ready, beside what they say of the cluster.
    pub async fn ready(cluster: &Cluster) -> Vec<String> {
        let mut troubles = Self::ask_for(cluster, READY_MAX).await.troubles;
        let asked = cluster
            .nodes()
            .into_iter()
            .map(async |(_, address)| (address, fetch(address, "/readyz/write", READY_MAX).await));
        for (address, answer) in join_all(asked).await {
            match answer {
                Some((200, _)) => {}
                Some((status, body)) => troubles.push(format!(
                    "{address}/readyz/write: {status} {}",
                    String::from_utf8_lossy(&body)
                )),
                None => troubles.push(format!("{address}/readyz/write does not answer")),
            }
        }
        troubles
    }
}

impl View {
    /// Whether a node answers with its status.
    pub async fn answers(address: std::net::SocketAddr) -> bool {
        status(address, ANSWER_MAX).await.is_some()
    }

    /// Status code of a GET; `None` without an answer.
    pub async fn code(address: std::net::SocketAddr, path: &str) -> Option<u16> {
        fetch(address, path, READY_MAX).await.map(|(code, _)| code)
    }

    /// Why a node is not ready; `None` when it is, or does not answer.
    pub async fn refusal(address: std::net::SocketAddr) -> Option<String> {
        let (status, body) = fetch(address, "/readyz/write", READY_MAX).await?;
        (status != 200).then(|| String::from_utf8_lossy(&body).into_owned())
    }
}

impl Look {
    fn take(&mut self, zone: usize, status: &Status) {
        self.head = self.head.max(status.head);
        self.frontiers.push(Some(status.frontier));
        if status.term >= self.term && status.leader.is_some() {
            self.term = status.term;
            self.leader = status.leader.and_then(super::replacements::zone_of);
        }
        if status.leader.is_none() {
            self.troubles.push(format!("{} knows no leader", status.node_id));
        }
        if status.is_applier {
            self.appliers[zone] = Some(status.node_id.clone());
        }
        if let Some(why) = &status.halted {
            self.troubles.push(format!("{} has halted: {why}", status.node_id));
        }
        for other in status.zones.iter().filter(|other| other.state != ZoneState::Live) {
            let (who, state) = (&status.node_id, other.state);
            self.troubles
                .push(format!("{who} says {} is {state:?}: {:?}", other.zone, other.message));
        }
    }
}

async fn status(address: std::net::SocketAddr, longest: Duration) -> Option<Status> {
    let (code, body) = fetch(address, "/v1/status", longest).await?;
    (code == 200).then(|| serde_json::from_slice(&body).ok()).flatten()
}

async fn fetch(
    address: std::net::SocketAddr,
    path: &str,
    longest: Duration,
) -> Option<(u16, Vec<u8>)> {
    let asking = async {
        let mut connection = Connection::open(address).await.ok()?;
        let answer = connection.exchange(&get("nemesis", path)).await.ok()?;
        Some((answer.status, answer.body.to_vec()))
    };
    tokio::time::timeout(longest, asking).await.ok().flatten()
}
