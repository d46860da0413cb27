//! The two servers of pghc: the coordinator, which orders writes, and the API node, which serves
//! HTTP and applies them to the PostgreSQL of its zone.
//!
//! [`coordinator`] and [`zone`] know each other by the RPC alone; both compute with [`sequencer`],
//! which is pure. [`http`] is in front of [`zone`] (`tests/tidy` checks these arrows).

pub mod coordinator;
pub mod http;
mod linger;
pub mod sequencer;
pub mod zone;
