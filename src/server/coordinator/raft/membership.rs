//! Reads the committed membership and the effective one, which is the newest in the log and may
//! still be cut.

use std::collections::BTreeMap;
use std::io;

use openraft::async_runtime::watch::WatchReceiver as _;

use super::handle::Raft;
use crate::coordinator::consensus::type_config::{LogId, Member, StoredMembership};

/// Both memberships at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memberships {
    /// Newest committed membership; after a start it is empty until a leader reports the commit.
    pub(crate) committed: StoredMembership,
    pub(crate) effective: StoredMembership,
}

impl Memberships {
    /// Reads both from openraft.
    ///
    /// # Errors
    /// If openraft has stopped.
    pub(crate) async fn read(raft: &Raft) -> io::Result<Self> {
        let copy =
            |it: &StoredMembership| StoredMembership::new(*it.log_id(), it.membership().clone());
        let read = raft.with_raft_state(move |state| {
            let known = &state.membership_state;
            Self { committed: copy(known.committed()), effective: copy(known.effective()) }
        });
        read.await.map_err(io::Error::other)
    }

    /// Returns the members of either membership.
    pub(crate) fn members(&self) -> BTreeMap<u64, Member> {
        let all = self.committed.nodes().chain(self.effective.nodes());
        all.map(|(id, member)| (*id, member.clone())).collect()
    }
}

/// Position of a coordinator in a membership that may be changing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Whether it is a member, also while its addition or removal is uncommitted.
    pub(crate) listed: bool,
    /// Incarnation of its directory; empty if not recorded.
    pub(crate) incarnation: String,
    /// Index after the effective membership; 0 for none.
    pub(crate) next: u64,
    /// Index after the committed membership; 0 for none.
    pub(crate) committed_next: u64,
}

impl Memberships {
    /// Returns the position of coordinator `id`. The committed membership has precedence, since the
    /// other may be cut.
    pub(crate) fn listing(&self, id: u64) -> Listing {
        let [committed, effective] = [&self.committed, &self.effective].map(|it| it.get_node(&id));
        let mut names = [committed, effective].into_iter().flatten().map(|it| &it.incarnation);
        Listing {
            listed: committed.or(effective).is_some(),
            incarnation: names.find(|it| !it.is_empty()).cloned().unwrap_or_default(),
            next: next(&self.effective),
            committed_next: next(&self.committed),
        }
    }
}

/// Returns the index after a membership's entry; 0 for none.
pub(crate) fn next(membership: &StoredMembership) -> u64 {
    membership.log_id().as_ref().map_or(0, |log_id: &LogId| log_id.index() + 1)
}

/// Returns, on the leader, the index after each follower's newest committed entry on disk.
pub(crate) fn acknowledged(raft: &Raft) -> BTreeMap<u64, u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let committed = metrics.cluster_committed.as_ref().map_or(0, |log_id| log_id.index() + 1);
    let Some(replication) = &metrics.replication else { return BTreeMap::new() };
    let next = |(id, matched): (&u64, &Option<LogId>)| {
        let next = matched.as_ref().map_or(0, |log_id| log_id.index() + 1);
        // Uncommitted entries may be cut without a fault.
        (*id, next.min(committed))
    };
    replication.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::Membership;
    use openraft::vote::RaftLeaderId as _;

    use super::Memberships;
    use crate::coordinator::consensus::type_config::{LogId, Member, StoredMembership};

    fn stored(index: u64, members: &[(u64, &str)]) -> StoredMembership {
        let member = |(id, incarnation): &(u64, &str)| {
            (*id, Member { incarnation: (*incarnation).to_owned(), ..Member::default() })
        };
        let nodes: BTreeMap<u64, Member> = members.iter().map(member).collect();
        let voters: BTreeSet<u64> = nodes.keys().copied().collect();
        let leader = openraft::impls::leader_id_adv::LeaderId::new(1, 1).to_committed();
        let membership = Membership::new(vec![voters], nodes).expect("voters are members");
        StoredMembership::new(Some(LogId::new(leader, index)), membership)
    }

    #[test]
    fn uncommitted_removal_keeps_the_member() {
        let (with, without) = (stored(3, &[(1, "a"), (2, "b")]), stored(9, &[(1, "a")]));
        let begun = Memberships { committed: with.clone(), effective: without.clone() }.listing(2);
        let (next, committed_next) = (begun.next, begun.committed_next);
        assert_eq!((begun.listed, begun.incarnation.as_str()), (true, "b"));
        assert_eq!((next, committed_next), (10, 4));
        let done =
            Memberships { committed: without.clone(), effective: without.clone() }.listing(2);
        assert_eq!((done.listed, done.committed_next), (false, 10));
        let comes = Memberships { committed: without, effective: with }.listing(2);
        assert_eq!((comes.listed, comes.incarnation.as_str()), (true, "b"));
    }
}
