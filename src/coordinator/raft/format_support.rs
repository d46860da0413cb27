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
use crate::coordinator::peers::directory::Roster;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::{IntroduceRequest, Introduction};
use crate::sequencer::{ENTRY_FORMAT, Zones};
use crate::task::watch;

/// What a member answers when it is asked who it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// Who it is.
    Introduced(Box<Introduction>),
    /// It knows no such question: a build of before incarnations.
    Older,
    /// Nothing, or another answers in its place.
    Silent,
}

/// Asks the other members; clones ask alike.
#[derive(Clone)]
pub(crate) struct Readers {
    id: u64,
    raft: Raft,
    roster: Roster,
    registry: watch::Receiver<Arc<Zones>>,
    /// Who was named in the log as not reading it yet.
    named: Arc<Mutex<Vec<u64>>>,
}

impl Readers {
    /// `registry` is what this coordinator has sequenced.
    pub(crate) fn new(
        id: u64,
        raft: &Raft,
        roster: &Roster,
        registry: watch::Receiver<Arc<Zones>>,
    ) -> Self {
        Self { id, raft: raft.clone(), roster: roster.clone(), registry, named: Arc::default() }
    }

    /// Whether a change of the registry of zones may be proposed. One that is in the log already
    /// was read by all; else every member is asked, which takes as long as the slowest, within the
    /// roster's patience.
    pub(crate) async fn read_zone_changes(&self) -> bool {
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
    pub(crate) async fn ask(&self, members: &BTreeMap<u64, Member>) -> BTreeMap<u64, Answer> {
        let others = members.iter().filter(|(id, _)| **id != self.id);
        join_all(others.map(async |(id, member)| (*id, self.ask_one(*id, member).await)))
            .await
            .into_iter()
            .collect()
    }

    async fn ask_one(&self, id: u64, member: &Member) -> Answer {
        let url = self.roster.url(id, Some(member));
        let Some(caller) = url.and_then(|url| self.roster.connect(&url)) else {
            return Answer::Silent;
        };
        let mut client = RaftClient::new(caller);
        let call = client.introduce(IntroduceRequest::default());
        match tokio::time::timeout(self.roster.patience(), call).await {
            Ok(Ok(it)) if it.get_ref().coordinator_id == id => {
                Answer::Introduced(Box::new(it.into_inner()))
            }
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Answer::Older,
            Ok(Ok(_) | Err(_)) | Err(_) => Answer::Silent,
        }
    }
}

/// Who has not said that it reads entries of `format`.
fn lacking(answers: &BTreeMap<u64, Answer>, format: u32) -> Vec<u64> {
    let reads = |answer: &Answer| match answer {
        Answer::Introduced(it) => it.entry_format >= format,
        Answer::Older | Answer::Silent => false,
    };
    answers.iter().filter(|(_, answer)| !reads(answer)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Answer, lacking};
    use crate::rpc::v1::Introduction;

    #[test]
    fn who_is_silent_or_older_does_not_count_as_a_reader() {
        let of = |entry_format| {
            Answer::Introduced(Box::new(Introduction { entry_format, ..Introduction::default() }))
        };
        let answers = [of(2), of(3), of(1), of(0), Answer::Older, Answer::Silent];
        let answers: BTreeMap<u64, Answer> = (1..).zip(answers).collect();
        assert_eq!(lacking(&answers, 2), [3, 4, 5, 6]);
        assert!(lacking(&BTreeMap::new(), 2).is_empty(), "a group of one");
    }
}
