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
pub mod line;
mod lines;
pub mod link;
mod matrix;
mod proxy;
mod stats;
mod timer;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use pghc_api::id::ZoneName;
use tokio::net::TcpListener;

pub use self::check::SelfCheck;
use self::conditions::Change;
use self::control::Net;
pub use self::lines::{Cut, Lane, LineView, Lines, Way};
pub use self::matrix::{BadMatrix, Matrix, MatrixFileError, ROUND_TRIP_MS_MAX, ZONES_MAX};
use self::proxy::Route;
use self::stats::Counters;
pub use self::stats::Stats;
use self::timer::Timer;
pub use self::timer::wake_on_time;
use crate::task::Tasks;

/// A running emulator. Clones are the same emulator.
#[derive(Debug, Clone)]
pub struct Wan {
    matrix: Arc<Matrix>,
    lines: Arc<Lines>,
    checked: Arc<OnceLock<SelfCheck>>,
    timer: Timer,
    counters: Arc<Counters>,
    tasks: Tasks,
}

impl Wan {
    /// Starts an emulator of `matrix`; its listeners and connections end with `tasks`. `seed` throws
    /// the dice of jitter and losses, of which there are none at first.
    ///
    /// # Errors
    /// If the system gives no thread for its clock.
    pub fn start(matrix: Matrix, seed: u64, tasks: &Tasks) -> io::Result<Self> {
        Ok(Self {
            lines: Arc::new(Lines::new(&matrix, seed)),
            checked: Arc::default(),
            matrix: Arc::new(matrix),
            timer: Timer::start()?,
            counters: Arc::new(Counters::new()),
            tasks: tasks.clone(),
        })
    }

    /// The matrix it emulates.
    #[must_use]
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Opens a route: the address answered stands, for clients in `from`, for the server `upstream`
    /// in `to`. Must be called inside a tokio runtime.
    ///
    /// The upstream need not listen yet, and may go and come back: a connection made while it is
    /// down is closed after one round trip.
    ///
    /// # Errors
    /// `InvalidInput` if the matrix lacks one of the zones; otherwise what binding the loopback
    /// listener answered.
    pub async fn route(
        &self,
        from: &ZoneName,
        to: &ZoneName,
        upstream: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let both = (self.lines.lane(from, to), self.lines.lane(to, from));
        let (Some(to_server), Some(to_client)) = both else {
            let text = format!("zone {from} or {to} is not in the latency matrix");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let route = Route {
            upstream,
            to_server,
            to_client,
            timer: self.timer.clone(),
            counters: Arc::clone(&self.counters),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("wan route", proxy::serve(listener, route));
        Ok(address)
    }

    /// Changes what travels from one zone to another from now on; `*` stands for all zones.
    ///
    /// # Errors
    /// A sentence, when a zone is not known or a value is impossible; nothing is changed then.
    pub fn set(&self, from: &str, to: &str, change: &Change) -> Result<(), String> {
        self.lines.set(from, to, change)
    }

    /// Cuts lines; answers the cut's number.
    ///
    /// # Errors
    /// A sentence, when the cut separates nothing or there are too many.
    pub fn cut(&self, cut: Cut) -> Result<u64, String> {
        self.lines.cut(cut)
    }

    /// Heals the cut of this number, or all; answers how many.
    pub fn heal(&self, number: Option<u64>) -> usize {
        self.lines.heal(number)
    }

    /// Measures how exact the emulator is now, on this machine. Takes about a second.
    ///
    /// # Errors
    /// When the loopback interface does not work or nothing comes back in time.
    pub async fn check(&self) -> io::Result<SelfCheck> {
        let found = check::run(&self.timer).await?;
        // The first one is what the start is judged by.
        let _: Result<(), SelfCheck> = self.checked.set(found);
        Ok(found)
    }

    /// What the first [check](Self::check) found.
    #[must_use]
    pub fn checked(&self) -> Option<SelfCheck> {
        self.checked.get().copied()
    }

    /// Everything about it at this moment.
    #[must_use]
    pub fn net(&self) -> Net {
        Net {
            links: self.lines.view(),
            cuts: self.lines.cuts(),
            stats: self.stats(),
            check: self.checked(),
        }
    }

    /// Begins to take orders over HTTP on a loopback port of the system's choice; answers where.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn serve(&self) -> io::Result<SocketAddr> {
        control::serve(self).await
    }

    /// What the emulator carried so far, and how late it was itself.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }
}
