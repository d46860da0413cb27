//! A member of the Raft group: openraft glue, the durable log, the sequencer's driver, the tail.
//!
//! Only this module names openraft. It meets the zones over the network alone.

pub mod log;

mod admission;
mod consensus;
mod disk_reserve;
mod environment;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod members;
mod ordering;
mod peers;
mod placement;
mod quorum_acks;
mod raft;
pub mod recover;
mod recovery_progress;
mod replica;
mod retention;
mod server;
mod settings;
mod small_file;
mod zones;

pub use environment::{Clock, Host, Serve};
pub use placement::timing_advisor::measured;
pub use placement::topology_view::survey;
pub use quorum_acks::Acks;
pub use server::Coordinator;
pub use settings::{Geo, Retention, Settings, StartError, Timing};
