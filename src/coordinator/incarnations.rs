//! Members that builds of before recorded without an incarnation get one, once: the leader asks each
//! who it is and has the answers committed. From then on the membership tells a wiped directory.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::{ChangeMembers, Precondition};

use super::handover::leader;
use super::membership::Memberships;
use super::readers::{Answer, Readers};
use super::type_config::{Member, Raft};
use crate::rpc::v1::Introduction;
use crate::task::Tasks;

/// Time between two looks whether a member lacks an incarnation.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) struct Incarnations {
    pub(super) me: Introduction,
    pub(super) raft: Raft,
    pub(super) readers: Readers,
}

impl Incarnations {
    /// Starts the task.
    pub(super) fn start(self, tasks: &Tasks) {
        tasks.spawn("incarnations", self.run());
    }

    /// Runs until it is dropped. When every member has an incarnation it only looks.
    async fn run(self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            if leader(&self.raft) == Some(self.me.coordinator_id) {
                self.round().await;
            }
        }
    }

    async fn round(&self) {
        let Ok(Memberships { committed, effective }) = Memberships::read(&self.raft).await else {
            return;
        };
        let is_changing = committed.log_id() != effective.log_id()
            || effective.membership().get_joint_config().len() > 1;
        let nameless = effective.nodes().filter(|(_, member)| member.incarnation.is_empty());
        let nameless: BTreeMap<u64, Member> =
            nameless.map(|(id, member)| (*id, member.clone())).collect();
        if is_changing || nameless.is_empty() {
            return;
        }
        let named = named(&nameless, &self.me, &self.readers.ask(&nameless).await);
        if named.is_empty() {
            return;
        }
        let ids: Vec<u64> = named.keys().copied().collect();
        // A change that an operator has begun meanwhile comes first: this is tried again.
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: *effective.log_id() };
        let change = ChangeMembers::SetNodes(named);
        match self.raft.change_membership_if(change, true, [unchanged]).await {
            Ok(_) => tracing::info!(coordinators = ?ids, "incarnations of members recorded"),
            Err(error) => tracing::debug!(%error, "incarnations of members not recorded"),
        }
    }
}

/// Those of `nameless` that said who they are and have a log, with their incarnation. None while a
/// member runs a build that would take the new form for the name of a zone.
fn named(
    nameless: &BTreeMap<u64, Member>,
    me: &Introduction,
    answers: &BTreeMap<u64, Answer>,
) -> BTreeMap<u64, Member> {
    if answers.values().any(|answer| *answer == Answer::Older) {
        return BTreeMap::new();
    }
    let said = |id: &u64| match answers.get(id) {
        Some(Answer::Introduced(it)) => Some(it.as_ref()),
        _ => (*id == me.coordinator_id).then_some(me),
    };
    let name = |(id, member): (&u64, &Member)| {
        // The leader has a log, whatever it said of itself when it started.
        let it = said(id).filter(|it| it.founded || *id == me.coordinator_id)?;
        let url = if member.url.is_empty() { it.url.clone() } else { member.url.clone() };
        let incarnation = Some(it.incarnation.clone()).filter(|it| !it.is_empty())?;
        Some((*id, Member { zone: member.zone.clone(), url, incarnation }))
    };
    nameless.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests;
