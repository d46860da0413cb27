//! Emulation of a wide-area network on one machine, in user space and without privileges.
//!
//! A [`Matrix`] holds the round trips between zones. [`Wan::route`] returns the address of a
//! loopback listener that represents a server of another zone: traffic is delayed by half the
//! matrix's round trip each way, and a new connection costs one more round trip. Jitter, losses (as
//! the stalls that TCP makes of them), bandwidth shared by all connections of two zones, and cuts
//! are added, and can be changed at run time ([`control`]). The pure engines [`mod@line`] and
//! [`link`] compute the arrival times; the proxy executes them.
//!
//! Invariant: a route changes when bytes arrive and never which or in what order. The emulator
//! measures its own lateness ([`Wan::check`], [`Wan::stats`]), because a figure measured through it
//! is worth no more than that.

mod check;
pub mod conditions;
pub mod control;
mod emulator;
pub mod line;
mod lines;
pub mod link;
mod matrix;
mod proxy;
mod stats;
mod timer;

pub use self::check::SelfCheck;
pub use self::emulator::Wan;
pub use self::line::LineView;
pub use self::lines::{Cut, Lane, Lines, Way};
pub use self::matrix::{BadMatrix, Matrix, MatrixFileError, ROUND_TRIP_MS_MAX, ZONES_MAX};
pub use self::stats::Stats;
pub use self::timer::wake_on_time;
