//! Whether every member reads what this build would write, so that a rolling upgrade needs no switch:
//! a build that does not know the format of an entry stops at it, so the first change of the
//! registry of zones waits until all members have said that they read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use parking_lot::Mutex;

use super::handle::Raft;
use super::membership::Memberships;
use crate::coordinator::consensus::type_config::Member;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::{GetNodeInfoRequest, NodeInfo};
use crate::sequencer::{ENTRY_FORMAT, Zones};
use crate::task::watch;

/// What a member answers when it is asked who it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Probe {
    /// Who it is.
    Answered(Box<NodeInfo>),
    /// Nothing, or another answers in its place.
    Silent,
}

/// Asks the other members; clones ask alike.
#[derive(Clone)]
pub(crate) struct FormatSupport {
    id: u64,
    raft: Raft,
    peers: PeerDirectory,
    registry: watch::Receiver<Arc<Zones>>,
    /// Who was named in the log as not reading it yet.
    named: Arc<Mutex<Vec<u64>>>,
}

impl FormatSupport {
    /// `registry` is what this coordinator has sequenced.
    pub(crate) fn new(
        id: u64,
        raft: &Raft,
        peers: &PeerDirectory,
        registry: watch::Receiver<Arc<Zones>>,
    ) -> Self {
        Self { id, raft: raft.clone(), peers: peers.clone(), registry, named: Arc::default() }
    }

    /// Whether a change of the registry of zones may be proposed. One that is in the log already
    /// was read by all; else every member is asked, which takes as long as the slowest, within the
    /// roster's patience.
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
                "zones are registered when these coordinators run this version and answer"
            );
        }
        named.clone_from(&lacking);
        lacking.is_empty()
    }

    /// What each of `members` but this coordinator answers.
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
        match tokio::time::timeout(self.peers.patience(), call).await {
            Ok(Ok(it)) if it.get_ref().coordinator_id == id => {
                Probe::Answered(Box::new(it.into_inner()))
            }
            Ok(Ok(_) | Err(_)) | Err(_) => Probe::Silent,
        }
    }
}

/// Who has not said that it reads entries of `format`.
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

    use super::{Probe, lacking};
    use crate::rpc::v1::NodeInfo;

    #[test]
    fn who_is_silent_or_older_does_not_count_as_a_reader() {
        let of = |entry_format| {
            Probe::Answered(Box::new(NodeInfo { entry_format, ..NodeInfo::default() }))
        };
        let answers = [of(2), of(3), of(1), of(0), Probe::Silent];
        let answers: BTreeMap<u64, Probe> = (1..).zip(answers).collect();
        assert_eq!(lacking(&answers, 2), [3, 4, 5]);
        assert!(lacking(&BTreeMap::new(), 2).is_empty(), "a group of one");
    }
}
