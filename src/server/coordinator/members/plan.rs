//! Plans a membership change: its steps, or the reason for its refusal. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::coordinator::consensus::type_config::Member;

/// The group as its leader sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<u64, Member>,
    /// The voters; during joint consensus, the new ones.
    pub(crate) voters: BTreeSet<u64>,
    /// Whether joint consensus is under way.
    pub(crate) joint: bool,
    pub(crate) leader: u64,
    /// Members that answered the leader within the lease, the leader included.
    pub(crate) reachable: BTreeSet<u64>,
}

/// Change requested by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Add { id: u64, member: Member, learner: bool },
    Remove { id: u64 },
    Replace { old: u64, new: u64, member: Member },
    Promote { id: u64 },
    Demote { id: u64 },
    Lead { id: u64 },
}

/// One repeatable step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Transfers leadership to the named voter, or to the most caught-up of `targets`.
    TransferLeadership {
        targets: BTreeSet<u64>,
    },
    AddLearner {
        id: u64,
        member: Member,
    },
    CatchUp {
        id: u64,
    },
    /// Changes the voters by joint consensus; a removed voter stays as a learner.
    Voters(BTreeSet<u64>),
    RemoveLearner {
        id: u64,
    },
}

/// Steps in order; empty if nothing is left to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    before: BTreeSet<u64>,
    after: BTreeSet<u64>,
    reachable: BTreeSet<u64>,
}

/// Reason for a refusal, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

fn refuse<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal(why))
}

/// Returns the majority of `voters`.
fn quorum(voters: &BTreeSet<u64>) -> usize {
    voters.len() / 2 + 1
}

impl Group {
    /// Returns how many reachable voters may still fail; negative without a quorum.
    fn margin(&self, voters: &BTreeSet<u64>) -> isize {
        let reachable = voters.intersection(&self.reachable).count();
        reachable.cast_signed() - quorum(voters).cast_signed()
    }

    fn member(&self, id: u64) -> Result<&Member, Refusal> {
        self.members.get(&id).map_or_else(
            || refuse(format!("coordinator {id} is not a member; see: pghc members list")),
            Ok,
        )
    }

    /// Plans `change`.
    ///
    /// # Errors
    /// [`Refusal`] if the change is impossible or, without `force`, unsafe.
    pub(crate) fn plan(&self, change: &Change, force: bool) -> Result<Plan, Refusal> {
        let mut after = self.voters.clone();
        let mut steps = Vec::new();
        let mut gone = None;
        match change {
            Change::Add { id, member, learner } => {
                self.add_learner_steps(*id, member, &mut steps)?;
                if !learner {
                    after.insert(*id);
                } else if after.contains(id) {
                    return refuse(format!(
                        "coordinator {id} votes already; to make it a learner: pghc members demote {id}"
                    ));
                }
            }
            Change::Promote { id } => {
                self.member(*id)?;
                after.insert(*id);
            }
            Change::Demote { id } => {
                self.member(*id)?;
                after.remove(id);
            }
            Change::Remove { id } => {
                after.remove(id);
                gone = self.members.contains_key(id).then_some(*id);
            }
            Change::Replace { old, new, member } => {
                if old == new {
                    return refuse(format!(
                        "a new coordinator needs an id that was never used, not {old} again"
                    ));
                }
                let is_done = !self.members.contains_key(old) && self.voters.contains(new);
                if !is_done {
                    self.member(*old)?;
                }
                self.add_learner_steps(*new, member, &mut steps)?;
                after.remove(old);
                after.insert(*new);
                gone = self.members.contains_key(old).then_some(*old);
            }
            Change::Lead { id } => {
                self.member(*id)?;
                if !self.voters.contains(id) {
                    return refuse(format!(
                        "coordinator {id} is a learner and cannot lead; first: pghc members promote {id}"
                    ));
                }
                if *id != self.leader {
                    steps.push(Step::TransferLeadership { targets: BTreeSet::from([*id]) });
                }
            }
        }
        self.check(&after, &steps, force)?;
        self.finish(after, gone, steps)
    }

    /// Adds the steps that make a coordinator a learner, unless it is a member.
    fn add_learner_steps(
        &self,
        id: u64,
        member: &Member,
        steps: &mut Vec<Step>,
    ) -> Result<(), Refusal> {
        match self.members.get(&id) {
            None => steps.push(Step::AddLearner { id, member: member.clone() }),
            Some(known) if known.zone == member.zone && known.url == member.url => {}
            Some(known) => {
                return refuse(format!(
                    "coordinator {id} is a member already, in zone {} at {}; give the new one an id that \
                     was never used",
                    known.zone, known.url
                ));
            }
        }
        Ok(())
    }

    /// Checks that the group keeps a quorum with `after` as its voters.
    fn check(&self, after: &BTreeSet<u64>, steps: &[Step], force: bool) -> Result<(), Refusal> {
        if after.is_empty() {
            return refuse(
                "the last voter cannot go: the group would be lost; first add another: pghc members \
                 add ID=ZONE=URL"
                    .to_owned(),
            );
        }
        if *after == self.voters {
            return Ok(());
        }
        // An added member has to answer before it may vote.
        let mut then = self.clone();
        then.reachable.extend(steps.iter().filter_map(|step| match step {
            Step::AddLearner { id, .. } => Some(*id),
            _ => None,
        }));
        let (before, margin) = (self.margin(&self.voters), then.margin(after));
        if margin < 0 {
            let silent: Vec<u64> = after.difference(&then.reachable).copied().collect();
            return refuse(format!(
                "of the voters {} that would be left, {} do not answer ({}): they are no majority, and \
                 the change could never end, not even with --force; bring them back, or replace them \
                 first: pghc members replace OLD NEW=ZONE=URL",
                Ids(after),
                silent.len(),
                Ids(&silent.iter().copied().collect())
            ));
        }
        if before > 0 && margin == 0 && !force {
            return refuse(format!(
                "with the voters {} left, any failure stops all writes; now {before} may fail; add \
                 another voter first, or repeat with --force",
                Ids(after)
            ));
        }
        Ok(())
    }

    fn finish(
        &self,
        after: BTreeSet<u64>,
        gone: Option<u64>,
        mut steps: Vec<Step>,
    ) -> Result<Plan, Refusal> {
        let before = self.voters.clone();
        if after != before || self.joint {
            let new = after.difference(&before).map(|id| Step::CatchUp { id: *id });
            steps.extend(new);
            if !after.contains(&self.leader) {
                let targets: BTreeSet<u64> = after
                    .intersection(&before)
                    .filter(|id| self.reachable.contains(id))
                    .copied()
                    .collect();
                // Without a transfer target among the old voters, the new member must vote first.
                if targets.is_empty() {
                    let both: BTreeSet<u64> = after.union(&before).copied().collect();
                    steps.push(Step::Voters(both));
                    steps.push(Step::TransferLeadership { targets: after.clone() });
                } else {
                    steps.push(Step::TransferLeadership { targets });
                }
            }
            steps.push(Step::Voters(after.clone()));
        }
        steps.extend(gone.map(|id| Step::RemoveLearner { id }));
        let reachable = self.reachable.clone();
        Ok(Plan { steps, before, after, reachable })
    }
}

/// Formats ids for operators.
struct Ids<'a>(&'a BTreeSet<u64>);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        if ids.is_empty() { f.write_str("none") } else { f.write_str(&ids.join(", ")) }
    }
}

impl Plan {
    /// Formats the plan for operators.
    pub(crate) fn lines(&self) -> Vec<String> {
        let side = |name: &str, voters: &BTreeSet<u64>| {
            let silent: BTreeSet<u64> = voters.difference(&self.reachable).copied().collect();
            let survives = voters.len() - quorum(voters);
            let mut line = format!(
                "{name}: voters {}; {} of {} must agree; survives {survives} failed",
                Ids(voters),
                quorum(voters),
                voters.len()
            );
            if !silent.is_empty() {
                line.push_str(&format!("; not answering now: {}", Ids(&silent)));
            }
            line
        };
        let mut lines = vec![side("before", &self.before), side("after", &self.after)];
        lines.extend(self.steps.iter().map(|step| format!("step: {step}")));
        lines
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransferLeadership { targets } => {
                write!(f, "transfer leadership to the most caught-up of {}", Ids(targets))
            }
            Self::AddLearner { id, member } => {
                write!(f, "add coordinator {id} at {} as a learner", member.url)
            }
            Self::CatchUp { id } => write!(f, "wait until coordinator {id} has caught up"),
            Self::Voters(voters) => {
                write!(f, "make {} the voters, agreed by majorities of old and new", Ids(voters))
            }
            Self::RemoveLearner { id } => write!(f, "take coordinator {id} out of the group"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Change, Group, Step};
    use crate::coordinator::consensus::type_config::Member;

    fn member(id: u64) -> Member {
        Member { zone: "eu".to_owned(), url: format!("http://c:{id}"), incarnation: String::new() }
    }

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn group(voters: &[u64], learners: &[u64], reachable: &[u64]) -> Group {
        let members = voters.iter().chain(learners).map(|id| (*id, member(*id))).collect();
        let (voters, reachable) = (set(voters), set(reachable));
        Group { members, voters, joint: false, leader: 1, reachable }
    }

    #[test]
    fn replacement_of_a_dead_voter_takes_one_voter_change() {
        let change = Change::Replace { old: 3, new: 4, member: member(4) };
        let plan = group(&[1, 2, 3], &[], &[1, 2]).plan(&change, false).expect("planned");
        let expected = [
            Step::AddLearner { id: 4, member: member(4) },
            Step::CatchUp { id: 4 },
            Step::Voters(set(&[1, 2, 4])),
            Step::RemoveLearner { id: 3 },
        ];
        assert_eq!(plan.steps, expected);
    }

    #[test]
    fn leader_transfers_leadership_before_its_removal() {
        let plan = group(&[1, 2, 3, 4], &[], &[1, 2, 3, 4]);
        let plan = plan.plan(&Change::Remove { id: 1 }, false).expect("planned");
        assert_eq!(plan.steps[0], Step::TransferLeadership { targets: set(&[2, 3, 4]) });
        let alone = group(&[1], &[], &[1]);
        let change = Change::Replace { old: 1, new: 2, member: member(2) };
        let steps = alone.plan(&change, true).expect("planned").steps;
        let last = [
            Step::Voters(set(&[1, 2])),
            Step::TransferLeadership { targets: set(&[2]) },
            Step::Voters(set(&[2])),
            Step::RemoveLearner { id: 1 },
        ];
        assert_eq!(steps[2..], last);
    }

    #[test]
    fn change_without_quorum_is_refused_with_advice() {
        let refused = |group: Group, change, force, words: &str| {
            let why = group.plan(&change, force).expect_err("refused").to_string();
            assert!(why.contains(words) && why.contains("pghc members"), "{why}");
        };
        refused(group(&[1, 2, 3], &[], &[1, 2]), Change::Remove { id: 2 }, true, "no majority");
        refused(group(&[1], &[2], &[1, 2]), Change::Demote { id: 1 }, true, "last voter");
        refused(group(&[1], &[2], &[1, 2]), Change::Lead { id: 2 }, false, "promote 2");
        refused(group(&[1], &[], &[1]), Change::Promote { id: 9 }, false, "not a member");
        let healthy = group(&[1, 2, 3], &[], &[1, 2, 3]);
        let why = healthy.plan(&Change::Remove { id: 3 }, false).expect_err("refused");
        assert!(why.to_string().contains("--force"), "{why}");
        assert!(healthy.plan(&Change::Remove { id: 3 }, true).is_ok());
    }

    #[test]
    fn dead_voter_is_removable_without_force() {
        let plan = group(&[1, 2, 3], &[], &[1, 2]).plan(&Change::Remove { id: 3 }, false);
        assert_eq!(plan.expect("planned").steps.len(), 2);
        let group = group(&[1, 2, 4], &[5], &[1, 2, 4]);
        for change in [
            Change::Remove { id: 3 },
            Change::Replace { old: 3, new: 4, member: member(4) },
            Change::Add { id: 4, member: member(4), learner: false },
            Change::Add { id: 5, member: member(5), learner: true },
            Change::Promote { id: 4 },
            Change::Demote { id: 5 },
            Change::Lead { id: 1 },
        ] {
            assert_eq!(group.plan(&change, false).expect("planned").steps, [], "{change:?}");
        }
    }

    #[test]
    fn interrupted_voter_change_completes_on_repeat() {
        let group = Group { joint: true, ..group(&[1, 2, 4], &[3], &[1, 2, 4]) };
        let change = Change::Replace { old: 3, new: 4, member: member(4) };
        let steps = group.plan(&change, false).expect("planned").steps;
        assert_eq!(steps, [Step::Voters(set(&[1, 2, 4])), Step::RemoveLearner { id: 3 }]);
    }

    proptest! {
        /// A plan keeps a reachable majority with the leader in it, and only learners are removed.
        #[test]
        fn plan_keeps_a_reachable_majority(
            voters in proptest::collection::btree_set(1_u64..6, 1..5),
            reachable in proptest::collection::btree_set(1_u64..6, 0..6),
            (id, new, kind) in (1_u64..6, 1_u64..8, 0..5),
            force in any::<bool>(),
        ) {
            let leader = *voters.first().expect("one at least");
            let mut group = group(&voters.iter().copied().collect::<Vec<_>>(), &[], &[]);
            group.leader = leader;
            group.reachable = &reachable | &set(&[leader]);
            let change = match kind {
                0 => Change::Add { id: new, member: member(new), learner: false },
                1 => Change::Remove { id },
                2 => Change::Replace { old: id, new, member: member(new) },
                3 => Change::Demote { id },
                _ => Change::Promote { id },
            };
            let Ok(plan) = group.plan(&change, force) else { return Ok(()) };
            prop_assert!(!plan.after.is_empty());
            let mut reachable = group.reachable.clone();
            let mut now = voters.clone();
            let mut transfer_to = leader;
            for step in plan.steps {
                match step {
                    Step::AddLearner { id, .. } => { reachable.insert(id); }
                    Step::TransferLeadership { targets } => {
                        let target = targets.iter().find(|id| now.contains(id) && reachable.contains(id));
                        prop_assert!(target.is_some(), "a target exists");
                        transfer_to = *target.expect("just checked");
                    }
                    Step::Voters(voters) => {
                        let up = voters.intersection(&reachable).count();
                        prop_assert!(up * 2 > voters.len(), "{voters:?} of {reachable:?}");
                        prop_assert!(voters.contains(&transfer_to), "the leader votes");
                        now = voters;
                    }
                    Step::RemoveLearner { id } => prop_assert!(!now.contains(&id)),
                    Step::CatchUp { .. } => {}
                }
            }
            prop_assert_eq!(now, plan.after);
        }
    }
}
