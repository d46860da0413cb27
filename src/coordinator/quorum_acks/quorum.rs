//! The counting rule. Pure: no I/O, no clock.
//!
//! A voter's ack names its durable vote and its last durable entry. It proves something only if the
//! vote is that of an elected leader and that very leader wrote the entry: then the voter's log is
//! the leader's up to there (log matching). What a majority has proved so under one leader is
//! committed up to the smallest of their indexes, because Raft's own rule is met: an entry of the
//! current term on a majority of the disks.

use crate::coordinator::consensus::type_config::{LogId, Vote};
use crate::rpc::v1;
use crate::sabotage::{self, Bug};

/// Voters of which something is remembered; groups are far smaller. Above it the oldest word goes.
const VOTERS_MAX: usize = 64;

/// Who leads or led: in openraft a term may have several leaders, so both numbers name one. Ordered
/// as votes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) node: u64,
}

/// What a voter had on its disk at one moment. True for good: what it held then it can only lose by
/// the word of a later leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Whose leadership its vote is for, and whether that leader was elected.
    pub(crate) vote: Leader,
    pub(crate) is_elected: bool,
    /// Its last entry: who wrote it, and its index.
    pub(crate) last: Leader,
    pub(crate) index: u64,
}

/// "This leader's log up to this index." Later leaders are larger, whatever the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogMatch {
    pub(crate) leader: Leader,
    pub(crate) index: u64,
}

/// The newest mark of each voter.
#[derive(Debug, Default)]
pub(crate) struct QuorumTracker {
    marks: Vec<(u64, LogMatch)>,
}

/// What the rule asks of an entry of the own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEntryRef {
    pub(crate) at: LogMatch,
    pub(crate) is_membership: bool,
}

impl Leader {
    /// The writer of an entry.
    pub(crate) fn of(log_id: &LogId) -> Self {
        Self { term: log_id.leader_id.term, node: log_id.leader_id.node_id }
    }
}

impl Ack {
    /// That the log ends at `last` and the newest vote before it is `vote`, both durable.
    pub(crate) fn new(vote: &Vote, last: &LogId) -> Self {
        Self {
            vote: Leader { term: vote.leader_id.term, node: vote.leader_id.node_id },
            is_elected: vote.committed,
            last: Leader::of(last),
            index: last.index,
        }
    }

    /// What it proves; nothing under a vote that is not the writer's of the last entry: such a log
    /// may still be cut, however many have it.
    fn mark(&self) -> Option<LogMatch> {
        if sabotage::is(Bug::AcksOfAnyTerm) {
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
    /// Takes in what `voter` says; whether it is news. Acks may come late or twice: the largest of a
    /// voter counts, since each was true when it was sent.
    pub(crate) fn note(&mut self, voter: u64, ack: &Ack) -> bool {
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

    /// The largest mark that a majority of `voters` proves; `None` while there is none. Looks at
    /// each pair of voters and allocates nothing.
    pub(crate) fn committed(&self, voters: &[u64]) -> Option<LogMatch> {
        let majority = voters.len() / 2 + 1;
        let said = || self.marks.iter().filter(|(id, _)| voters.contains(id)).map(|(_, it)| *it);
        let proves = |mark: LogMatch| move |it: &LogMatch| it.leader == mark.leader && *it >= mark;
        said().filter(|mark| said().filter(proves(*mark)).count() >= majority).max()
    }
}

/// How many of `entries`, the own log from index `next` on, are committed since `mark` is: those up
/// to the last one that the mark's leader wrote, for up to there this log is that leader's. Ends
/// before a change of the members, after which another majority may count.
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
        if seen.at.leader == mark.leader || sabotage::is(Bug::AcksOfAnyTerm) {
            proven = count;
        }
    }
    proven
}
