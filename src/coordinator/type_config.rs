//! The types openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is proposed: an encoded [`crate::sequencer::Entry`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proposal(pub(super) Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry of {} bytes", self.0.len())
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member as the replicated membership describes it. Addresses are not in it: how one coordinator
/// reaches another may differ from place to place, so each has its own list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) zone: String,
}

openraft::declare_raft_types!(
    /// Types of the one Raft group.
    pub(super) TypeConfig:
        D = Proposal,
        R = (),
        Node = Member,
);

pub(super) type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Bytes>;
