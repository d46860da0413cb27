//! A member of the Raft group: openraft glue, the durable log, the sequencer's driver, the tail.
//!
//! Only this module names openraft. It meets the zones over the network alone.

pub mod log;

mod codec;
mod forward;
mod identity;
mod log_store;
mod maintenance;
mod network;
mod node;
mod raft_service;
mod recent;
mod ring;
mod sequencing;
mod service;
mod snapshots;
mod state_machine;
mod tail;
mod type_config;
mod zones;

pub use maintenance::Retention;
pub use node::{Coordinator, Settings, StartError, Timing};
