//! Answers peers that check a coordinator's admission or ask for its description.

use pghc_runtime::rpc::v1::check_admission_reply::Callback;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::v1::{CheckAdmissionReply, GetNodeInfoRequest, Member, NodeInfo};
use tonic::Status;

use super::peer_history::PeerHistory;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::membership::{Listing, Memberships};

#[derive(Clone)]
pub(crate) struct AdmissionResponder {
    /// Description taken at startup.
    me: NodeInfo,
    raft: Raft,
    peers: PeerDirectory,
    peer_history: PeerHistory,
}

impl AdmissionResponder {
    pub(crate) fn new(
        me: &NodeInfo,
        raft: &Raft,
        peers: &PeerDirectory,
        peer_history: &PeerHistory,
    ) -> Self {
        let (me, raft, peers) = (me.clone(), raft.clone(), peers.clone());
        Self { me, raft, peers, peer_history: peer_history.clone() }
    }

    /// Returns this coordinator's description.
    pub(crate) fn node_info(&self) -> NodeInfo {
        self.node_info_at(self.peers.members().1)
    }

    /// Returns the description to a leader, and records the member addresses that the leader sends.
    pub(crate) fn meet(&self, members: Vec<Member>) -> NodeInfo {
        if !members.is_empty() && self.me.founders.is_empty() {
            self.peers.learn(members.into_iter().map(|member| (member.coordinator_id, member.url)));
        }
        self.node_info()
    }

    /// Returns the description with the membership known before index `next`.
    fn node_info_at(&self, next: u64) -> NodeInfo {
        NodeInfo { membership_next: next, founded: self.me.founded || next > 0, ..self.me.clone() }
    }

    /// Reports what this coordinator has recorded of the caller, and calls the caller back.
    pub(crate) async fn check_admission(
        &self,
        it: &NodeInfo,
    ) -> Result<CheckAdmissionReply, Status> {
        let member = self.peers.member(it.coordinator_id);
        let url = self.peers.url(it.coordinator_id, member.as_ref());
        let url = url.unwrap_or_else(|| it.url.clone());
        let callback = self.call_back(&url, it).await;
        // Read together, so that the parts of the reply agree.
        let memberships = Memberships::read(&self.raft).await;
        let memberships = memberships.map_err(|error| Status::unavailable(error.to_string()))?;
        let Listing { listed, incarnation, next, committed_next } =
            memberships.listing(it.coordinator_id);
        let seen = self.peer_history.of(it, &self.raft);
        let is_known = incarnation.is_empty() || incarnation == it.incarnation;
        if callback == Callback::Caller && listed && is_known && !seen.is_ahead_of(it) {
            let noted = self.peer_history.record(it).await;
            noted.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(CheckAdmissionReply {
            me: Some(self.node_info_at(next)),
            listed,
            incarnation,
            seen_starts: seen.starts,
            seen_boot: seen.boot,
            seen_term: seen.term,
            seen_next_index: seen.next_index,
            callback: callback.into(),
            url,
            committed_next,
        })
    }

    /// Whether the process at `url` is the caller.
    async fn call_back(&self, url: &str, it: &NodeInfo) -> Callback {
        let Some(connection) = self.peers.connect(url) else { return Callback::Nobody };
        let mut client = RaftClient::new(connection);
        let call = client.get_node_info(GetNodeInfoRequest::default());
        match tokio::time::timeout(self.peers.rpc_timeout(), call).await {
            Ok(Ok(there)) if there.get_ref().boot == it.boot => Callback::Caller,
            Ok(Ok(_)) => Callback::Another,
            Ok(Err(_)) | Err(_) => Callback::Nobody,
        }
    }
}
