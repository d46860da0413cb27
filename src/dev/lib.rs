//! A whole deployment on one machine, as real processes; also the harness of the integration tests.
//!
//! This module starts binaries and speaks HTTP and SQL to them; it knows nothing of their insides.
//! Every started process is reaped: no child outlives the value that owns it.

pub mod deployment;
pub mod observe;
mod ports;
pub mod postgres;
pub mod process;
pub mod record;
pub mod scratch;
