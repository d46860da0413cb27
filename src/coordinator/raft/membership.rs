//! The membership twice: as it is committed, and the newest in the log, which counts for votes and
//! may still be cut.

use std::collections::BTreeMap;
use std::io;

use openraft::async_runtime::watch::WatchReceiver as _;

use super::handle::Raft;
use crate::coordinator::consensus::type_config::{LogId, Member, StoredMembership};

/// Both as openraft knows them at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memberships {
    /// The newest known to be committed; empty until a leader has told after a start.
    pub(crate) committed: StoredMembership,
    pub(crate) effective: StoredMembership,
}

impl Memberships {
    /// Asks openraft.
    ///
    /// # Errors
    /// If it has stopped.
    pub(crate) async fn read(raft: &Raft) -> io::Result<Self> {
        let copy =
            |it: &StoredMembership| StoredMembership::new(*it.log_id(), it.membership().clone());
        let read = raft.with_raft_state(move |state| {
            let known = &state.membership_state;
            Self { committed: copy(known.committed()), effective: copy(known.effective()) }
        });
        read.await.map_err(io::Error::other)
    }

    /// All members of either.
    pub(crate) fn members(&self) -> BTreeMap<u64, Member> {
        let all = self.committed.nodes().chain(self.effective.nodes());
        all.map(|(id, member)| (*id, member.clone())).collect()
    }
}

/// How a coordinator stands in a membership that may be about to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Whether it is a member: also while its removal, or that it comes, is not committed.
    pub(crate) listed: bool,
    /// Whose directory it has; empty when that is not recorded.
    pub(crate) incarnation: String,
    /// The index after the effective membership; 0 for none.
    pub(crate) next: u64,
    /// The index after the committed membership; 0 for none.
    pub(crate) committed_next: u64,
}

impl Memberships {
    /// How coordinator `id` stands. What is committed counts more, since the rest may be cut.
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

/// The index after the entry of a membership; 0 for none.
pub(crate) fn next(membership: &StoredMembership) -> u64 {
    membership.log_id().as_ref().map_or(0, |log_id: &LogId| log_id.index() + 1)
}

/// The index after the newest committed entry on each follower's disk, when this coordinator leads.
pub(crate) fn acknowledged(raft: &Raft) -> BTreeMap<u64, u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let committed = metrics.cluster_committed.as_ref().map_or(0, |log_id| log_id.index() + 1);
    let Some(replication) = &metrics.replication else { return BTreeMap::new() };
    let next = |(id, matched): (&u64, &Option<LogId>)| {
        let next = matched.as_ref().map_or(0, |log_id| log_id.index() + 1);
        // What is not committed may be cut again, rightly.
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
    fn who_is_removed_by_an_entry_that_may_still_be_cut_is_still_a_member() {
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
