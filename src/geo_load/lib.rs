//! `geo-load`: the command line of the laboratory, and its runs in virtual time.
//!
//! The only crate that knows both: `pghc-lab` measures real processes and knows no server code,
//! `pghc-sim` runs the server code in memory.

mod bench;
mod experiments;
mod interrupt;
pub mod load;
mod site_args;
pub mod virtual_run;
