//! A member of the Raft group: openraft glue, the durable log, the sequencer's driver, the tail.
//!
//! Only this module names openraft. It meets the zones over the network alone.

pub mod log;

mod acks;
mod admission;
mod codec;
mod complete;
mod confirmed;
mod deference;
mod distances;
mod files;
mod forward;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod greeting;
mod handover;
mod heartbeat;
mod host;
mod identity;
mod incarnations;
mod introduction;
mod log_store;
mod maintenance;
mod members_service;
mod membership;
mod names;
mod network;
mod node;
mod pace;
mod placement;
mod plan;
mod proposer;
mod pulse;
mod raft_service;
mod readers;
mod recent;
pub mod recover;
mod registrar;
mod requests;
mod ring;
mod roster;
mod runtime;
mod samples;
mod sequencing;
mod service;
mod sightings;
mod snapshots;
mod space;
mod state_machine;
mod switch;
mod tail;
mod traffic;
mod type_config;
mod verdict;
mod watch;
mod zone_service;
mod zone_state;
mod zones;

pub use acks::Acks;
pub use host::{Clock, Host, Serve};
pub use maintenance::Retention;
pub use node::{Coordinator, Settings, StartError, Timing};
pub use pace::measured;
pub use placement::{Geo, survey};
