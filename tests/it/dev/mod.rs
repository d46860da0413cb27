//! The harness itself: what it starts dies, comes back and leaves nothing.

mod parade;
mod postgres;
