//! The harness itself: what it starts dies, comes back and leaves nothing.

mod demo;
mod deployment;
mod detached;
mod postgres;
mod private;
