//! From a client's writes to a batch that a coordinator has ordered: the queue, its batches, resends.

mod batcher;
mod in_flight;
mod pending;
pub(crate) mod queue;
mod task;
