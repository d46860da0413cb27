//! Arguments in, exit code out.

pub mod coordinator;
pub mod dev;
pub mod process;
pub mod status;
mod view;
