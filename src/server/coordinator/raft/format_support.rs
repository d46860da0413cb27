//! Checks that every member reads the entry formats of this build, so that rolling upgrades need no
//! switch.
//!
//! A build stops at an entry of an unknown format. The first change of the zone registry therefore
//! waits until every member has confirmed the format.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use parking_lot::Mutex;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::v1::{GetNodeInfoRequest, NodeInfo};
use pghc_runtime::task::fair_watch;

use super::handle::Raft;
use super::membership::Memberships;
use crate::coordinator::consensus::type_config::Member;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::sequencer::{ENTRY_FORMAT, Zones};

/// Reply of a member to a `GetNodeInfo` call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Probe {
    /// Its description.
    Answered(Box<NodeInfo>),
    /// No reply, or a reply of another coordinator.
    Silent,
}

/// Probes the other members; clones share the state.
#[derive(Clone)]
pub(crate) struct FormatSupport {
    id: u64,
    raft: Raft,
    peers: PeerDirectory,
    registry: fair_watch::Receiver<Arc<Zones>>,
    /// Members already logged as lacking the format.
    named: Arc<Mutex<Vec<u64>>>,
}

impl FormatSupport {
    /// `registry` is the registry sequenced here.
    pub(crate) fn new(
        id: u64,
        raft: &Raft,
        peers: &PeerDirectory,
        registry: fair_watch::Receiver<Arc<Zones>>,
    ) -> Self {
        Self { id, raft: raft.clone(), peers: peers.clone(), registry, named: Arc::default() }
    }

    /// Whether a change of the zone registry may be proposed. An earlier change in the log proves
    /// that every member reads the format; else every member is probed within the peers' timeout.
    pub(crate) async fn all_support(&self) -> bool {
        if !self.registry.borrow().is_empty() {
            return true;
        }
        let Ok(memberships) = Memberships::read(&self.raft).await else { return false };
        let answers = self.ask(&memberships.members()).await;
        let lacking = lacking(&answers, ENTRY_FORMAT);
        let mut named = self.named.lock();
        if *named != lacking && !lacking.is_empty() {
            tracing::info!(
                coordinators = ?lacking,
                "zone registration waits for these coordinators' version"
            );
        }
        named.clone_from(&lacking);
        lacking.is_empty()
    }

    /// Probes `members`, except this coordinator.
    pub(crate) async fn ask(&self, members: &BTreeMap<u64, Member>) -> BTreeMap<u64, Probe> {
        let others = members.iter().filter(|(id, _)| **id != self.id);
        join_all(others.map(async |(id, member)| (*id, self.ask_one(*id, member).await)))
            .await
            .into_iter()
            .collect()
    }

    async fn ask_one(&self, id: u64, member: &Member) -> Probe {
        let url = self.peers.url(id, Some(member));
        let Some(connection) = url.and_then(|url| self.peers.connect(&url)) else {
            return Probe::Silent;
        };
        let mut client = RaftClient::new(connection);
        let call = client.get_node_info(GetNodeInfoRequest::default());
        match tokio::time::timeout(self.peers.rpc_timeout(), call).await {
            Ok(Ok(it)) if it.get_ref().coordinator_id == id => {
                Probe::Answered(Box::new(it.into_inner()))
            }
            Ok(Ok(_) | Err(_)) | Err(_) => Probe::Silent,
        }
    }
}

/// Returns the members that have not confirmed `format`.
fn lacking(answers: &BTreeMap<u64, Probe>, format: u32) -> Vec<u64> {
    let reads = |answer: &Probe| match answer {
        Probe::Answered(it) => it.entry_format >= format,
        Probe::Silent => false,
    };
    answers.iter().filter(|(_, answer)| !reads(answer)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pghc_runtime::rpc::v1::NodeInfo;

    use super::{Probe, lacking};

    #[test]
    fn silent_or_older_member_lacks_the_format() {
        let of = |entry_format| {
            Probe::Answered(Box::new(NodeInfo { entry_format, ..NodeInfo::default() }))
        };
        let answers = [of(2), of(3), of(1), of(0), Probe::Silent];
        let answers: BTreeMap<u64, Probe> = (1..).zip(answers).collect();
        assert_eq!(lacking(&answers, 2), [3, 4, 5]);
        assert!(lacking(&BTreeMap::new(), 2).is_empty(), "a group of one");
    }
}
