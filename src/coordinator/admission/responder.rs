//! Answers of a coordinator to others that ask who it is and who they are; see `admission`.

use tonic::Status;

use super::peer_history::Sightings;
use crate::coordinator::peers::directory::Roster;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::membership::{Listing, Memberships};
use crate::rpc::v1::hello_reply::Reached;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::{HelloReply, IntroduceRequest, Introduction, Member};

#[derive(Clone)]
pub(crate) struct Greeting {
    /// As at the start.
    me: Introduction,
    raft: Raft,
    roster: Roster,
    sightings: Sightings,
}

impl Greeting {
    pub(crate) fn new(me: &Introduction, raft: &Raft, roster: &Roster, seen: &Sightings) -> Self {
        let (me, raft, roster) = (me.clone(), raft.clone(), roster.clone());
        Self { me, raft, roster, sightings: seen.clone() }
    }

    /// Who this coordinator is.
    pub(crate) fn introduction(&self) -> Introduction {
        self.knowing(self.roster.members().1)
    }

    /// As [`Greeting::introduction`], to a leader that tells where its group's members are.
    pub(crate) fn meet(&self, members: Vec<Member>) -> Introduction {
        if !members.is_empty() && self.me.founders.is_empty() {
            self.roster
                .learn(members.into_iter().map(|member| (member.coordinator_id, member.url)));
        }
        self.introduction()
    }

    /// Who it is when it knows of the membership before index `next`.
    fn knowing(&self, next: u64) -> Introduction {
        Introduction {
            membership_next: next,
            founded: self.me.founded || next > 0,
            ..self.me.clone()
        }
    }

    /// What is known of the caller, whom it calls back.
    pub(crate) async fn hello(&self, it: &Introduction) -> Result<HelloReply, Status> {
        let member = self.roster.member(it.coordinator_id);
        let url = self.roster.url(it.coordinator_id, member.as_ref());
        let url = url.unwrap_or_else(|| it.url.clone());
        let reached = self.reach(&url, it).await;
        // Read at once, so that the parts of the answer agree.
        let memberships = Memberships::read(&self.raft).await;
        let memberships = memberships.map_err(|error| Status::unavailable(error.to_string()))?;
        let Listing { listed, incarnation, next, committed_next } =
            memberships.listing(it.coordinator_id);
        let seen = self.sightings.of(it, &self.raft);
        let is_known = incarnation.is_empty() || incarnation == it.incarnation;
        if reached == Reached::Caller && listed && is_known && !seen.is_beyond(it) {
            let noted = self.sightings.note(it).await;
            noted.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(HelloReply {
            me: Some(self.knowing(next)),
            listed,
            incarnation,
            seen_starts: seen.starts,
            seen_boot: seen.boot,
            seen_term: seen.term,
            seen_next_index: seen.next_index,
            reached: reached.into(),
            url,
            committed_next,
        })
    }

    /// Whether the process at `url` is the caller.
    async fn reach(&self, url: &str, it: &Introduction) -> Reached {
        let Some(caller) = self.roster.connect(url) else { return Reached::Nobody };
        let mut client = RaftClient::new(caller);
        let call = client.introduce(IntroduceRequest::default());
        match tokio::time::timeout(self.roster.patience(), call).await {
            Ok(Ok(there)) if there.get_ref().boot == it.boot => Reached::Caller,
            Ok(Ok(_)) => Reached::Another,
            Ok(Err(_)) | Err(_) => Reached::Nobody,
        }
    }
}
