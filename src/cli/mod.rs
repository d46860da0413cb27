//! Arguments in, exit code out.

pub mod api;
pub mod coordinator;
pub mod dev;
pub mod load;
pub mod process;
pub mod status;
pub mod verify;
mod view;
