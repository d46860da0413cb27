//! A whole cluster in one thread and in virtual time: real coordinators (openraft, log, sequencer,
//! tail) and real API nodes (submitting, applying) on a network, disks, databases and a clock in
//! memory.
//!
//! Purpose: protocols over distances, at 3 to 48 zones, in seconds, reproducible by seed
//! ([`Deployment`]), and whole clusters under faults (`tests/sim`). Both run a [`Cluster`]; network
//! links, disks and databases take their faults as a parameter, and have none by default. Not
//! modelled: processor time, PostgreSQL and HTTP.
//!
//! Invariant: nothing here reads a real clock or real randomness, and every `select!` is biased.

mod ask;
pub mod clock;
mod cluster;
pub mod database;
mod deployment;
mod disk;
mod link_model;
mod links;
pub mod members;
pub mod net;
mod rng;

pub use ask::{Answer, Ask};
pub use cluster::{Cluster, Machine, Place, Zone, cluster_id};
pub use database::SimDatabase;
pub use deployment::{Deployment, Plan};
pub use disk::SimDisk;
pub use link_model::WanLinkModel;
pub use links::head_of;
pub use rng::SeededRng;
