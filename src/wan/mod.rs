//! Emulation of a wide-area network on one machine, in user space and without privileges.
//!
//! A [`Matrix`] says how far zones are from each other. [`Wan::route`] gives the address of a
//! loopback listener that stands for a server of another zone: what passes it is late by half the
//! matrix's round trip each way, and a new connection costs one round trip more. On top come jitter,
//! losses (as the stalls that TCP makes of them), bandwidth that all connections of two zones share,
//! and cuts; all can be changed while it runs ([`control`]). When bytes come out is decided by
//! [`mod@line`] and [`link`], which are pure; the proxy is a shell around them.
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
