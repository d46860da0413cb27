//! The public contract of pghc: what a third party needs to write, read and verify a chain.
//!
//! The bottom layer of pghc: identifiers, the chain formulae, the bounds, the error codes and the
//! wire types. The crate does no I/O and reads no clock.

pub mod chain;
pub mod error;
pub mod id;
pub mod limits;
pub mod payload;
pub mod time;
pub mod token;
pub mod verify;
pub mod wire;
