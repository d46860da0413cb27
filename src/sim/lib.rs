//! A whole parade in one thread and in virtual time: real coordinators (openraft, log, sequencer,
//! tail) and real API nodes (submitting, applying) on a network, disks, databases and a clock in
//! memory.
//!
//! Purpose: protocols over distances, at 3 to 48 zones, in seconds, reproducible by seed. Not
//! modelled: processor time, disk time, PostgreSQL and HTTP. `tests/sim` uses the same [`net`],
//! with network links, disks and databases that fail.
//!
//! Invariant: nothing here reads a real clock or real randomness, and every `select!` is biased.

mod ask;
pub mod clock;
mod database;
mod disk;
mod link_model;
mod links;
pub mod members;
pub mod net;
mod parade;
mod rng;

pub use ask::{Answer, Ask};
pub use database::MemDatabase;
pub use disk::SimDisk;
pub use link_model::WanLinkModel;
pub use links::{Links, heard};
pub use parade::{Parade, Plan, cluster, timing};
pub use rng::SeededRng;
