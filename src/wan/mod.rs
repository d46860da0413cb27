//! Emulation of a wide-area network on one machine, in user space and without privileges.
//!
//! A [`Matrix`] says how far zones are from each other. [`Wan::route`] gives the address of a
//! loopback listener that stands for a server of another zone: what passes it is late by half the
//! matrix's round trip each way, and a new connection costs one round trip more. The delays are
//! decided by [`link`], which is pure; the proxy is a shell around it.
//!
//! Invariant: a route changes when bytes arrive and never which or in what order. The emulator
//! measures its own lateness ([`Wan::stats`]), because a figure measured through it is worth no
//! more than that.

pub mod link;
mod matrix;
mod proxy;
mod stats;
mod timer;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use pghc_api::id::ZoneName;
use tokio::net::TcpListener;

pub use self::matrix::{BadMatrix, Matrix, MatrixFileError, ROUND_TRIP_MS_MAX, ZONES_MAX};
use self::proxy::Route;
use self::stats::Counters;
pub use self::stats::Stats;
use self::timer::Timer;
use crate::task::Tasks;

/// A running emulator. Clones are the same emulator.
#[derive(Debug, Clone)]
pub struct Wan {
    matrix: Arc<Matrix>,
    timer: Timer,
    counters: Arc<Counters>,
    tasks: Tasks,
}

impl Wan {
    /// Starts an emulator of `matrix`; its listeners and connections end with `tasks`.
    ///
    /// # Errors
    /// If the system gives no thread for its clock.
    pub fn start(matrix: Matrix, tasks: &Tasks) -> io::Result<Self> {
        Ok(Self {
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
        if let Some(zone) = [from, to].into_iter().find(|zone| !self.matrix.contains(zone)) {
            let text = format!("zone {zone} is not in the latency matrix");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let route = Route {
            upstream,
            to_server: self.matrix.one_way(from, to),
            to_client: self.matrix.one_way(to, from),
            timer: self.timer.clone(),
            counters: Arc::clone(&self.counters),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn("wan route", proxy::serve(listener, route));
        Ok(address)
    }

    /// What the emulator carried so far, and how late it was itself.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }
}
