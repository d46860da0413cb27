//! Orders batches: proposals, calls to the leader, ReadIndex, and tails for the zones.

pub(crate) mod leader_client;
pub(crate) mod proposer;
pub(crate) mod read_index;
pub(crate) mod tail;
