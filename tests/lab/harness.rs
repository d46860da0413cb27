//! The parts of the harness of `tests/it` that these tests need.

#[path = "../it/harness/basics.rs"]
mod basics;
#[path = "../it/harness/console.rs"]
pub(crate) mod console;

pub(crate) use basics::{client, free_addresses, wait_for};
