//! Instantiates openraft's types.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Proposed data: an encoded [`crate::sequencer::Entry`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Bytes);

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

/// A member as the replicated membership describes it.
///
/// Its encoding is one text: the zone alone, as the first version wrote it, or zone, URL and
/// incarnation on three lines. Both versions read each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "MemberText", into = "MemberText")]
pub(crate) struct Member {
    pub(crate) zone: String,
    /// Address recorded at admission; a coordinator's own setting overrides it. Empty when not
    /// recorded.
    pub(crate) url: String,
    /// Incarnation of its data directory; empty when not recorded.
    pub(crate) incarnation: String,
}

#[derive(Serialize, Deserialize)]
struct MemberText {
    text: String,
}

impl From<MemberText> for Member {
    fn from(MemberText { text }: MemberText) -> Self {
        let mut lines = text.split('\n').map(str::to_owned);
        let mut line = || lines.next().unwrap_or_default();
        Self { zone: line(), url: line(), incarnation: line() }
    }
}

impl From<Member> for MemberText {
    fn from(Member { zone, url, incarnation }: Member) -> Self {
        let is_plain = url.is_empty() && incarnation.is_empty();
        Self { text: if is_plain { zone } else { format!("{zone}\n{url}\n{incarnation}") } }
    }
}

type Runtime = super::runtime::ProcessRuntime;

openraft::declare_raft_types!(
    /// Types of the Raft group.
    pub(crate) TypeConfig:
        D = Proposal,
        R = (),
        Node = Member,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Bytes>;
