//! A running emulator: its routes, its lines, and its measured precision.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use pghc_api::id::ZoneName;
use pghc_runtime::task::Tasks;
use tokio::net::TcpListener;

use super::check::{self, SelfCheck};
use super::conditions::Change;
use super::lines::{Cut, Lines};
use super::matrix::Matrix;
use super::proxy::{self, Route};
use super::stats::{Counters, Stats};
use super::timer::Timer;

/// A running emulator. Clones are the same emulator.
#[derive(Debug, Clone)]
pub struct Wan {
    matrix: Arc<Matrix>,
    pub(super) lines: Arc<Lines>,
    checked: Arc<OnceLock<SelfCheck>>,
    timer: Timer,
    counters: Arc<Counters>,
    pub(super) tasks: Tasks,
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

    /// Opens a route: the returned address represents, for clients in `from`, the server `upstream`
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

    /// Changes the conditions from one zone to another; `*` means all zones.
    ///
    /// # Errors
    /// A sentence, when a zone is not known or a value is impossible; nothing is changed then.
    pub fn set(&self, from: &str, to: &str, change: &Change) -> Result<(), String> {
        self.lines.set(from, to, change)
    }

    /// Cuts lines; returns the cut's number.
    ///
    /// # Errors
    /// A sentence, when the cut separates nothing or there are too many.
    pub fn cut(&self, cut: Cut) -> Result<u64, String> {
        self.lines.cut(cut)
    }

    /// Heals the cut of this number, or all; returns how many.
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

    /// Result of the first [check](Self::check).
    #[must_use]
    pub fn checked(&self) -> Option<SelfCheck> {
        self.checked.get().copied()
    }

    /// Traffic of the emulator since its start, and its lateness.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }
}
