//! Quorum acks: every voter sends its durable position to every coordinator.
//!
//! A coordinator that holds acks of a majority knows that entries are committed, without the
//! leader's message. This is an optimisation only: openraft's commit sequences the same entries
//! when acks are off, late or inconclusive. DESIGN.md beside this file holds the proof.
//!
//! | module | holds |
//! |---|---|
//! | `quorum` | the counting rule, pure: acks in, commit index out |
//! | `progress` | newest acks of every voter, shared by log, network and counting |
//! | `commit_task` | task that sequences the proven entries |
//! | `ack_stream` | streams to the other coordinators |
//!
//! `replica/unconfirmed.rs` holds the entries that openraft has not committed yet.

pub(crate) mod ack_stream;
pub(crate) mod commit_task;
pub(crate) mod progress;
pub(crate) mod quorum;
#[cfg(test)]
mod tests;

/// How a coordinator learns that entries are committed. Coordinators of one group may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// It sends its acks to all others and counts theirs, besides the leader's commit index.
    #[default]
    AllToAll,
    /// It uses the leader's commit index alone, and neither sends nor counts acks.
    Leader,
}
