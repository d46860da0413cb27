//! Checks the rule by examples and, under random elections, against later leaders' logs.

mod ahead;
mod durable;
mod unreadable;

use proptest::prelude::*;

use super::quorum::{Ack, Leader, LogEntryRef, LogMatch, QuorumTracker, proven};

fn leader(term: u64) -> Leader {
    Leader { term, node: term % 3 + 1 }
}

/// Returns an ack under the vote of leader `vote`, with a last entry of leader `last`.
fn ack(vote: u64, last: u64, index: u64) -> Ack {
    Ack { vote: leader(vote), is_elected: true, last: leader(last), index }
}

fn tracker(acks: &[(u64, Ack)]) -> QuorumTracker {
    let mut tracker = QuorumTracker::default();
    for (voter, ack) in acks {
        tracker.merge(*voter, ack);
    }
    tracker
}

fn mark(term: u64, index: u64) -> LogMatch {
    LogMatch { leader: leader(term), index }
}

#[test]
fn majority_of_one_leaders_log_is_committed() {
    let acks = [(1, ack(2, 2, 9)), (2, ack(2, 2, 7)), (3, ack(2, 2, 5))];
    assert_eq!(tracker(&acks).committed(&[1, 2, 3]), Some(mark(2, 7)));
    assert_eq!(tracker(&acks[..2]).committed(&[1, 2, 3]), Some(mark(2, 7)));
    assert_eq!(tracker(&acks[..1]).committed(&[1, 2, 3]), None);
    assert_eq!(tracker(&acks).committed(&[1, 2, 3, 4]), Some(mark(2, 5)), "three of four");
    assert_eq!(tracker(&acks).committed(&[1, 2, 3, 4, 5]), Some(mark(2, 5)));
    assert_eq!(tracker(&acks[..1]).committed(&[1]), Some(mark(2, 9)));
}

#[test]
fn ack_of_a_nonvoter_does_not_count() {
    let acks = [(1, ack(2, 2, 9)), (7, ack(2, 2, 9)), (8, ack(2, 2, 9))];
    assert_eq!(tracker(&acks).committed(&[1, 2, 3]), None);
    assert_eq!(tracker(&acks).committed(&[]), None);
}

#[test]
fn copies_of_an_older_leaders_entries_prove_nothing() {
    // All hold index 5 of leader 2, copied by the leader of term 4. A leader of term 3 may still
    // cut it, until an entry of term 4 follows.
    let copied = [(1, ack(4, 2, 5)), (2, ack(4, 2, 5)), (3, ack(4, 2, 5))];
    assert_eq!(tracker(&copied).committed(&[1, 2, 3]), None);
    let own = [(1, ack(4, 4, 6)), (2, ack(4, 4, 6)), (3, ack(4, 2, 5))];
    assert_eq!(tracker(&own).committed(&[1, 2, 3]), Some(mark(4, 6)));
}

#[test]
fn acks_of_different_leaders_are_not_added() {
    let acks = [(1, ack(2, 2, 9)), (2, ack(3, 3, 9)), (3, ack(4, 4, 9))];
    assert_eq!(tracker(&acks).committed(&[1, 2, 3]), None);
}

#[test]
fn a_vote_for_a_candidate_proves_nothing() {
    let promised = Ack { is_elected: false, ..ack(2, 2, 9) };
    assert_eq!(tracker(&[(1, promised), (2, promised)]).committed(&[1, 2, 3]), None);
}

#[test]
fn late_or_repeated_ack_changes_nothing() {
    let mut tracker = tracker(&[(1, ack(3, 3, 9)), (2, ack(3, 3, 8))]);
    assert!(!tracker.merge(1, &ack(3, 3, 4)) && !tracker.merge(1, &ack(2, 2, 99)));
    assert!(!tracker.merge(1, &ack(3, 3, 9)), "the ack is not newer");
    assert_eq!(tracker.committed(&[1, 2, 3]), Some(mark(3, 8)));
}

#[test]
fn tracked_voters_are_bounded() {
    let acks: Vec<(u64, Ack)> = (0..1000).map(|voter| (voter, ack(2, 2, voter))).collect();
    let tracker = tracker(&acks);
    assert_eq!(tracker.committed(&[997, 998, 999]), Some(mark(2, 998)));
    assert_eq!(tracker.committed(&[0, 1, 2]), None);
}

fn seen(term: u64, index: u64) -> LogEntryRef {
    LogEntryRef { at: mark(term, index), is_membership: false }
}

#[test]
fn own_log_counts_to_the_acked_leaders_last_entry() {
    let log = [seen(1, 4), seen(1, 5), seen(3, 6), seen(3, 7)];
    let proven = |upto| proven(log.iter().copied(), 4, mark(3, upto));
    assert_eq!((proven(7), proven(6)), (4, 3), "the entries before it are the leader's too");
    assert_eq!(proven(5), 0, "of older leaders alone nothing is known");
}

#[test]
fn proof_ends_at_a_hole_or_membership_change() {
    let other = [seen(1, 4), seen(2, 5)];
    assert_eq!(proven(other.into_iter(), 4, mark(3, 9)), 0);
    let hole = [seen(3, 4), seen(3, 6)];
    assert_eq!(proven(hole.into_iter(), 4, mark(3, 9)), 1);
    assert_eq!(proven([seen(3, 5)].into_iter(), 4, mark(3, 9)), 0);
    let changed = LogEntryRef { is_membership: true, ..seen(3, 5) };
    assert_eq!(proven([seen(3, 4), changed, seen(3, 6)].into_iter(), 4, mark(3, 9)), 1);
}

/// Voters' logs as terms of their entries, under Raft's rules, driven by random steps.
struct Group {
    logs: Vec<Vec<u64>>,
    votes: Vec<u64>,
    leader: Option<(usize, u64)>,
}

impl Group {
    fn new(voters: usize) -> Self {
        Self { logs: vec![vec![0]; voters], votes: vec![0; voters], leader: None }
    }

    /// Whether a log is at least as new as another one.
    fn is_as_new(one: &[u64], two: &[u64]) -> bool {
        (one.last(), one.len()) >= (two.last(), two.len())
    }

    /// Runs an election: `candidate` asks the voters in the bit set.
    fn elect(&mut self, candidate: usize, asked: u64) {
        let term = self.votes.iter().max().copied().unwrap_or_default() + 1;
        let log = self.logs[candidate].clone();
        let mut granted = 0;
        for voter in 0..self.logs.len() {
            let is_asked = voter == candidate || asked >> voter & 1 == 1;
            if is_asked && Self::is_as_new(&log, &self.logs[voter]) {
                self.votes[voter] = term;
                granted += 1;
            }
        }
        if granted > self.logs.len() / 2 {
            self.leader = Some((candidate, term));
            self.logs[candidate].push(term);
        }
    }

    /// Copies the leader's log to a voter, up to `upto`.
    fn append(&mut self, voter: usize, upto: usize) {
        let Some((leader, term)) = self.leader else { return };
        if self.votes[voter] > term {
            return;
        }
        self.votes[voter] = term;
        let upto = upto % self.logs[leader].len() + 1;
        let sent = self.logs[leader][..upto].to_vec();
        let log = &mut self.logs[voter];
        let same = sent.iter().zip(log.iter()).take_while(|(a, b)| a == b).count();
        if same < sent.len() {
            log.truncate(same);
            log.extend_from_slice(&sent[same..]);
        }
    }

    fn ack(&self, voter: usize) -> Ack {
        let log = &self.logs[voter];
        let last = log.last().copied().unwrap_or_default();
        // A promise to an unelected candidate has no entries and never counts.
        ack(self.votes[voter], last, log.len() as u64 - 1)
    }
}

proptest! {
    /// Late acks in any mixture prove only a prefix of every later leader's log.
    #[test]
    fn counted_entry_is_in_every_later_leaders_log(
        voters in prop_oneof![Just(3_usize), Just(4), Just(5)],
        steps in proptest::collection::vec((0_u8..6, 0_usize..5, any::<u16>()), 1..120),
    ) {
        let mut group = Group::new(voters);
        let ids: Vec<u64> = (0..voters as u64).collect();
        let (mut record, mut tracker) = (Vec::new(), QuorumTracker::default());
        let mut sequenced: Vec<u64> = Vec::new();
        for (kind, voter, number) in steps {
            let (voter, number) = (voter % voters, usize::from(number));
            match kind {
                0 => group.elect(voter, number as u64),
                1 => if let Some((leader, term)) = group.leader
                    && group.votes[leader] == term { group.logs[leader].push(term); },
                2 | 3 => group.append(voter, number),
                4 => record.push((voter, group.ack(voter))),
                _ if record.is_empty() => {}
                _ => {
                    let (from, ack) = record[number % record.len()];
                    tracker.merge(from as u64, &ack);
                }
            }
            if let Some((leader, term)) = group.leader && group.votes[leader] == term {
                prop_assert!(group.logs[leader].starts_with(&sequenced), "{sequenced:?}");
            }
            // The counter is a voter with its own log.
            let (log, next) = (&group.logs[voter], sequenced.len());
            let Some(mark) = tracker.committed(&ids) else { continue };
            let entries = (0..).zip(log).skip(next).map(|(index, term)| seen(*term, index));
            let count = proven(entries, next as u64, mark);
            if count > 0 {
                prop_assert!(log.starts_with(&sequenced), "the counter's own log was cut");
                sequenced.extend_from_slice(&log[next..next + count]);
            }
        }
    }
}
