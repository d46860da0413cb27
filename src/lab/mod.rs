//! Load generation and benchmarks.
//!
//! What is here looks at pghc from outside, as a client does: over HTTP, by the programs next to
//! ours, and for comparison at PostgreSQL itself. Latency is measured from the time a request was
//! *planned*, so that a server that stalls cannot hide it by stalling the generator.

pub mod bench;
pub mod chain_check;
pub mod client;
pub mod histogram;
pub mod html;
pub mod load;
pub mod net;
pub mod pacer;
pub mod predict;
pub mod report;
pub mod run;
pub mod site;
pub mod target;
pub mod virtual_run;
pub mod write_audit;
