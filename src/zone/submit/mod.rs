//! From a client's writes to a batch that a coordinator has ordered: the queue, its batches, resends.

pub(crate) mod batcher;
pub(crate) mod queue;
