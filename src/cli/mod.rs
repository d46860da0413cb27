//! Arguments in, exit code out.

pub mod api;
pub mod audit;

pub mod coordinator;
pub mod dev;
pub mod export;
mod found;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;

pub mod leader;

mod deployments;
pub mod members;
pub mod pghc;
pub mod place;

mod reach;
pub mod recover;
pub mod reseed;

pub mod status;
pub mod verify;
mod view;
pub mod zone;
