//! A whole parade in one thread and in virtual time: real coordinators (openraft, log, sequencer,
//! tail) and real API nodes (submitting, applying) on a network, disks, databases and a clock in
//! memory.
//!
//! Purpose: protocols over distances, at 3 to 48 zones, in seconds, the same for the same
//! seed. What it leaves out: processors (nothing takes any time), disks (nor does writing), PostgreSQL
//! and HTTP. `tests/sim` stands on the same [`net`], with roads, disks and databases that fail.
//!
//! Invariant: nothing here reads a real clock or real randomness, and every `select!` is biased.

mod ask;
pub mod clock;
mod database;
mod disk;
mod links;
pub mod members;
pub mod net;
mod parade;
mod roads;

pub use ask::{Answer, Ask};
pub use database::MemDatabase;
pub use links::{Links, heard};
pub use parade::{Parade, Plan, cluster, timing};
pub use roads::WanRoads;
