//! Connections of clients: the bound on their descriptors, and the choice of the connection to
//! close when full.
//!
//! Invariant: connections never take the descriptors that the process needs for itself: for its log, its
//! database, its peers. This module knows nothing of protocols.

mod descriptors;
mod seats;

pub use descriptors::{TooFew, kept_for_files, raise_limit, room_for};
pub use seats::{Guest, Seat, Seats};
