//! The membership twice: as it is committed, and the newest in the log, which counts for votes and
//! may still be cut.

use std::collections::BTreeMap;
use std::io;

use super::type_config::{LogId, Member, Raft, StoredMembership};

/// Both as openraft knows them at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Memberships {
    /// The newest known to be committed; empty until a leader has told after a start.
    pub(super) committed: StoredMembership,
    pub(super) effective: StoredMembership,
}

impl Memberships {
    /// Asks openraft.
    ///
    /// # Errors
    /// If it has stopped.
    pub(super) async fn read(raft: &Raft) -> io::Result<Self> {
        let copy =
            |it: &StoredMembership| StoredMembership::new(*it.log_id(), it.membership().clone());
        let read = raft.with_raft_state(move |state| {
            let known = &state.membership_state;
            Self { committed: copy(known.committed()), effective: copy(known.effective()) }
        });
        read.await.map_err(io::Error::other)
    }

    /// All members of either.
    pub(super) fn members(&self) -> BTreeMap<u64, Member> {
        let all = self.committed.nodes().chain(self.effective.nodes());
        all.map(|(id, member)| (*id, member.clone())).collect()
    }
}

/// How a coordinator stands in a membership that may be about to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Whether it is a member: also while its removal, or that it comes, is not committed.
    pub(super) listed: bool,
    /// Whose directory it has; empty when that is not recorded.
    pub(super) incarnation: String,
    /// The index after the effective membership; 0 for none.
    pub(super) next: u64,
    /// The index after the committed membership; 0 for none.
    pub(super) committed_next: u64,
}

impl Memberships {
    /// How coordinator `id` stands. What is committed counts more, since the rest may be cut.
    pub(super) fn listing(&self, id: u64) -> Listing {
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
pub(super) fn next(membership: &StoredMembership) -> u64 {
    membership.log_id().as_ref().map_or(0, |log_id: &LogId| log_id.index() + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::Membership;
    use openraft::vote::RaftLeaderId as _;

    use super::super::type_config::{LogId, Member, StoredMembership};
    use super::Memberships;

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
