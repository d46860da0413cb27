//! Arguments in, exit code out.

pub mod coordinator;
mod process;
