//! Raft around openraft: log storage, network, heartbeats, membership, leadership.

pub(crate) mod commit_piggyback;
pub(crate) mod format_support;
pub(crate) mod handle;
pub(crate) mod heartbeat_lane;
pub(crate) mod idle_heartbeats;
pub(crate) mod leadership_transfer;
pub(crate) mod log_store;
pub(crate) mod membership;
pub(crate) mod network;
pub(crate) mod vote_withholding;
