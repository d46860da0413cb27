//! Arguments in, exit code out.

pub mod dev;
pub mod load;
pub mod status;
pub mod verify;
mod view;
