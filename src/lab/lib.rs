//! Load generation and benchmarks.
//!
//! This module uses pghc from outside, as a client does: over HTTP, through the installed programs,
//! and for comparison through PostgreSQL itself. Latency counts from the *planned* time of a
//! request, so a stalled server cannot hide it by stalling the generator.

pub mod bench;
pub mod chain_check;
pub mod client;
pub mod histogram;
pub mod html;
pub mod load;
pub mod net;
pub mod pacer;
pub mod pool;
pub mod predict;
pub mod report;
pub mod run;
pub mod site;
pub mod target;
pub mod transport;
pub mod write_audit;
