//! Connections of clients: how many descriptors they may take, and which one gives way to the next.
//!
//! Invariant: connections never take the descriptors that the process needs for itself: for its log, its
//! database, its peers. This module knows nothing of protocols.

mod descriptors;
mod seats;

pub use descriptors::{TooFew, kept_for_files, raise_limit, room_for};
pub use seats::{Guest, Seat, Seats};
