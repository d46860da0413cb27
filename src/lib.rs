//! pghc: a consensus-ordered write layer over plain PostgreSQL.
//!
//! The modules stand in layer order: each may import those above it, never one beside or below it
//! (`tests/tidy` checks this; ARCHITECTURE.md says what each is for).

// layer 1
pub mod config;
pub mod failpoint;
pub mod rpc;
pub mod sabotage;
pub mod task;
pub mod telemetry;
// layer 2
pub mod postgres;
pub mod sequencer;
pub mod wan;
// layer 3
pub mod coordinator;
pub mod zone;
// layer 4
pub mod http;
pub mod verify;
// layer 5
pub mod dev;
pub mod virtual_parade;
// layer 6
pub mod lab;
// layer 7
pub mod cli;
