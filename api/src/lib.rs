//! The public contract of pghc: what a third party needs to write, read and verify a chain.
//!
//! This crate is the bottom layer. It holds identifiers, the chain formulae, the bounds, the error
//! codes and the wire types; it does no I/O, reads no clock and knows no server.

pub mod chain;
pub mod error;
pub mod id;
pub mod limits;
pub mod payload;
pub mod time;
pub mod token;
pub mod verify;
pub mod wire;
