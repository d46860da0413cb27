//! Counting rule of acks. Pure: no I/O, no clock.
//!
//! An ack names a voter's durable vote and last durable entry. It is a proof only if the vote is
//! for an elected leader who wrote that entry: by log matching, the voter's log then equals the
//! leader's up to there. Positions that a majority proves under one leader are committed up to
//! their smallest index: Raft's own rule, an entry of the current term on a majority of disks.

use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::v1;

use crate::coordinator::consensus::type_config::{LogId, Vote};

/// Most voters kept; groups are far smaller. Above the limit the oldest is dropped.
const VOTERS_MAX: usize = 64;

/// A present or past leader. In openraft a term may have several, so term and id name one. Ordered
/// as votes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) node: u64,
}

/// Durable position of a voter at one moment. True for good: only a later leader can cut it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Leader that its vote is for, and whether that leader was elected.
    pub(crate) vote: Leader,
    pub(crate) is_elected: bool,
    /// Last entry: its leader and its index.
    pub(crate) last: Leader,
    pub(crate) index: u64,
}

/// "This leader's log up to this index." Later leaders are larger, whatever the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogMatch {
    pub(crate) leader: Leader,
    pub(crate) index: u64,
}

/// Newest position of each voter.
#[derive(Debug, Default)]
pub(crate) struct QuorumTracker {
    marks: Vec<(u64, LogMatch)>,
}

/// Leader, index and kind of an entry in the local log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEntryRef {
    pub(crate) at: LogMatch,
    pub(crate) is_membership: bool,
}

impl Leader {
    /// Returns the leader that wrote an entry.
    pub(crate) fn of(log_id: &LogId) -> Self {
        Self { term: log_id.leader_id.term, node: log_id.leader_id.node_id }
    }
}

impl Ack {
    /// States that the log ends at `last` and that the newest vote before it is `vote`, both
    /// durable.
    pub(crate) fn new(vote: &Vote, last: &LogId) -> Self {
        Self {
            vote: Leader { term: vote.leader_id.term, node: vote.leader_id.node_id },
            is_elected: vote.committed,
            last: Leader::of(last),
            index: last.index,
        }
    }

    /// Returns the proven position; `None` unless the vote is for the last entry's leader, since
    /// any other log may still be cut.
    fn mark(&self) -> Option<LogMatch> {
        if mutation::is_active(Mutant::AcksOfAnyTerm) {
            return Some(LogMatch { leader: Leader::default(), index: self.index });
        }
        (self.is_elected && self.vote == self.last)
            .then_some(LogMatch { leader: self.last, index: self.index })
    }
}

impl From<&Ack> for v1::Ack {
    fn from(ack: &Ack) -> Self {
        Self {
            vote_term: ack.vote.term,
            vote_node: ack.vote.node,
            elected: ack.is_elected,
            last_term: ack.last.term,
            last_node: ack.last.node,
            last_index: ack.index,
        }
    }
}

impl From<v1::Ack> for Ack {
    fn from(ack: v1::Ack) -> Self {
        Self {
            vote: Leader { term: ack.vote_term, node: ack.vote_node },
            is_elected: ack.elected,
            last: Leader { term: ack.last_term, node: ack.last_node },
            index: ack.last_index,
        }
    }
}

impl QuorumTracker {
    /// Merges an ack of `voter`; returns whether it is newer. Acks may be late or repeated: the
    /// largest one counts, since each was true when sent.
    pub(crate) fn merge(&mut self, voter: u64, ack: &Ack) -> bool {
        let Some(mark) = ack.mark() else { return false };
        if let Some((_, known)) = self.marks.iter_mut().find(|(id, _)| *id == voter) {
            let is_news = mark > *known;
            *known = mark.max(*known);
            return is_news;
        }
        if self.marks.len() == VOTERS_MAX
            && let Some(oldest) = (0..VOTERS_MAX).min_by_key(|at| self.marks[*at].1)
        {
            self.marks.swap_remove(oldest);
        }
        self.marks.push((voter, mark));
        true
    }

    /// Returns the largest position that a majority of `voters` proves; `None` without one.
    /// Compares each pair of voters and does not allocate.
    pub(crate) fn committed(&self, voters: &[u64]) -> Option<LogMatch> {
        let majority = voters.len() / 2 + 1;
        let said = || self.marks.iter().filter(|(id, _)| voters.contains(id)).map(|(_, it)| *it);
        let proves = |mark: LogMatch| move |it: &LogMatch| it.leader == mark.leader && *it >= mark;
        said().filter(|mark| said().filter(proves(*mark)).count() >= majority).max()
    }
}

/// Returns how many of `entries`, the local log from index `next` on, are committed by `mark`.
///
/// They end at the last entry of the mark's leader, because the log is that leader's up to there.
/// They also end before a membership change, after which another majority may count.
pub(crate) fn proven(
    entries: impl Iterator<Item = LogEntryRef>,
    next: u64,
    mark: LogMatch,
) -> usize {
    let mut proven = 0;
    for ((count, expected), seen) in (1..).zip(next..).zip(entries) {
        if seen.at.index != expected || expected > mark.index || seen.is_membership {
            break;
        }
        if seen.at.leader == mark.leader || mutation::is_active(Mutant::AcksOfAnyTerm) {
            proven = count;
        }
    }
    proven
}
