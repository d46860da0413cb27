//! Arguments in, exit code out.

pub mod api;
mod bench;
pub mod coordinator;
pub mod dev;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod geo;
pub mod load;
pub mod members;
pub mod pghc;
pub mod process;
pub mod recover;
pub mod reseed;
pub mod status;
pub mod verify;
mod view;
pub mod zone;
