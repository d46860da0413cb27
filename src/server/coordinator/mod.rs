//! One coordinator: Raft on openraft, the durable log, the sequencer's driver, tails for the zones.
//!
//! Only this module names openraft. Zones and coordinators share the network and no memory.

pub mod log;

mod admission;
mod assembly;
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

pub use environment::{Clock, Environment, Serve};
pub use placement::timing_advisor::measured;
pub use placement::topology_view::topology;
pub use quorum_acks::Acks;
pub use server::Coordinator;
pub use settings::{Geo, Retention, Settings, StartError, Timing};
