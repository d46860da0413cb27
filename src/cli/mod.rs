//! Arguments in, exit code out.

pub mod api;
pub mod audit;
mod bench;
pub mod coordinator;
pub mod dev;
pub mod export;
mod found;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod geo;
mod interrupt;
pub mod leader;
pub mod load;
pub mod members;
mod parades;
pub mod pghc;
pub mod place;
pub mod process;
mod reach;
pub mod recover;
#[cfg(test)]
mod reference;
pub mod reseed;
mod site_args;
pub mod status;
pub mod verify;
mod view;
pub mod zone;
