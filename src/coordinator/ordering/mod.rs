//! From a batch to its committed entry and on to the zones: proposing, the way to the leader, ReadIndex, tails.

pub(crate) mod leader_client;
pub(crate) mod proposer;
pub(crate) mod read_index;
pub(crate) mod tail;
