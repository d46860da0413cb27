//! Arguments in, exit code out.

pub mod dev;
pub mod status;
mod view;
