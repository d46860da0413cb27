//! The harness itself: what it starts dies, comes back and leaves nothing.

mod demo;
mod detached;
mod parade;
mod postgres;
mod private;
