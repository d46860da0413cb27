//! The model of a zone's database: what `sql/` promises to the applier and to readers, in memory. A
//! faulty one is slow, loses connections and, after a crash, what was not flushed.
//! `tests/sim/contract.rs` holds it to what PostgreSQL does.
//!
//! Invariant: the chain is dense, and grows only in the newest epoch. Hashes are computed and
//! compared by the applier, as for PostgreSQL.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pghc_api::chain::Link;
use pghc_api::id::WriteId;
use pghc_postgres::{ConnectError, Face, Finding, Lease, MigrateError, Page, ReadError};
use pghc_runtime::task::fair_watch;
use pghc_server::zone::database::{Database, Heard, Session};
use pghc_server::zone::{Identity, Recent};
use tokio::time::{Instant, sleep};

use super::links::{self, Links};
use super::rng::SeededRng;
use super::session::SimSession;

/// Called with every commit before its answer is sent: the zone's links, and the place from which on
/// they are new.
pub type Committed = Arc<dyn Fn(&[Link], usize) + Send + Sync>;

/// How a database fails.
pub struct Faults {
    /// Decides when and how.
    pub rng: SeededRng,
    /// Whether commits wait for the disk.
    pub on_disk: bool,
    /// Receives every commit.
    pub committed: Committed,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) links: Links,
    /// The frontier over time.
    pub(super) steps: Vec<(Instant, u64)>,
    /// Links on disk.
    pub(super) flushed: usize,
    pub(super) epoch: u64,
    pub(super) applier: Option<String>,
    pub(super) renewals: i64,
    /// The session that holds the lock of the newest epoch, while it lives.
    pub(super) holder: Option<u64>,
    pub(super) sessions: BTreeSet<u64>,
    sessions_begun: u64,
    /// Counts stops of the server.
    run: u64,
    is_down: bool,
    /// Chance in a thousand that a statement's connection is lost.
    pub(super) loss_per_mille: u64,
    latency_us: (u64, u64),
    /// Identity of the zone, once claimed.
    identity: Option<Identity>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) state: Mutex<State>,
    /// Run and frontier.
    heard: fair_watch::Sender<(u64, u64)>,
    pub(super) faults: Option<Faults>,
}

/// A database server with a zone's chain. Clones are the same one. The default has no faults: its
/// statements take no time, and a crash ends its sessions alone.
#[derive(Clone, Default)]
pub struct SimDatabase(pub(super) Arc<Inner>);

impl SimDatabase {
    /// An empty database that may fail.
    #[must_use]
    pub fn faulty(faults: Faults) -> Self {
        let database = Self(Arc::new(Inner { faults: Some(faults), ..Inner::default() }));
        database.trouble(0, (150, 900));
        database
    }

    /// Whether commits wait for the disk.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.0.faults.as_ref().is_none_or(|faults| faults.on_disk)
    }

    /// All links of the zone.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        self.0.state.lock().links.0.clone()
    }

    /// Newest applied id.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.0.state.lock().links.frontier()
    }

    /// When the frontier reached what.
    #[must_use]
    pub fn steps(&self) -> Vec<(Instant, u64)> {
        self.0.state.lock().steps.clone()
    }

    /// Ends the server at this instant, or its machine; its sessions end, and what was not flushed is
    /// lost.
    pub fn crash(&self) {
        let told = {
            let mut state = self.0.state.lock();
            (state.is_down, state.holder) = (true, None);
            state.run += 1;
            state.sessions.clear();
            let flushed = state.flushed;
            state.links.0.truncate(flushed);
            (state.run, flushed as u64)
        };
        self.0.heard.send_replace(told);
    }

    /// Starts the database again.
    pub fn start(&self) {
        self.0.state.lock().is_down = false;
    }

    /// Changes the chain as a superuser may. Durable.
    pub fn rewrite(&self, change: impl FnOnce(&mut Vec<Link>)) {
        let mut state = self.0.state.lock();
        change(&mut state.links.0);
        state.flushed = state.links.0.len();
    }

    /// Sets how often connections to a faulty database are lost, and how long statements take, in
    /// microseconds.
    pub fn trouble(&self, loss_per_mille: u64, latency_us: (u64, u64)) {
        let mut state = self.0.state.lock();
        (state.loss_per_mille, state.latency_us) = (loss_per_mille, latency_us);
    }

    /// Makes a commit known to those that listen.
    pub(super) fn tell(&self, state: &State) {
        self.0.heard.send_replace((state.run, state.links.frontier()));
    }

    /// Time of one way between client and server.
    pub(super) fn latency(&self) -> Duration {
        let latency_us = self.0.state.lock().latency_us;
        self.0.faults.as_ref().map_or(Duration::ZERO, |faults| faults.rng.micros(latency_us))
    }

    /// Lets `ways` ways of equal time pass.
    pub(super) async fn travel(&self, ways: u32) {
        if self.0.faults.is_some() {
            sleep(self.latency() * ways).await;
        }
    }

    /// The state of a server that runs.
    fn up<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.0.state.lock();
        (!state.is_down).then(|| act(&mut state))
    }

    /// Executes a statement of a session that lives, all of it or nothing.
    pub(super) fn execute<T>(&self, session: u64, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.up(|state| state.sessions.contains(&session).then(|| act(state))).flatten()
    }

    /// Reads in one snapshot.
    fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        Box::pin(async move {
            self.travel(1).await;
            let seen = self.up(|state| look(state));
            self.travel(1).await;
            seen.ok_or(ReadError::Unavailable(None))
        })
    }

    /// Ends a session.
    pub(super) fn end(&self, session: u64) {
        let mut state = self.0.state.lock();
        state.sessions.remove(&session);
        if state.holder == Some(session) {
            state.holder = None;
        }
    }
}

fn unavailable() -> ConnectError {
    ConnectError::Unavailable { dsn: "memory".to_owned(), source: None }
}

impl Database for SimDatabase {
    fn migrate<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Vec<Finding>, MigrateError>> {
        Box::pin(async {
            self.travel(4).await;
            let claimed = self.up(|state| {
                state.identity.get_or_insert_with(|| identity.clone());
            });
            claimed.map(|()| Vec::new()).ok_or_else(|| MigrateError::Connect(unavailable()))
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Session>, ConnectError>> {
        Box::pin(async {
            self.travel(2).await;
            let begun = self.up(|state| {
                state.sessions_begun += 1;
                state.sessions.insert(state.sessions_begun);
                state.sessions_begun
            });
            let id = begun.ok_or_else(unavailable)?;
            Ok(Arc::new(SimSession::new(self.clone(), id)) as Arc<dyn Session>)
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Heard, ConnectError>> {
        Box::pin(async {
            self.travel(2).await;
            let known = self.up(|state| (state.run, state.links.frontier()));
            let (run, first) = known.ok_or_else(unavailable)?;
            Ok(links::heard(self.0.heard.subscribe(), run, first))
        })
    }

    fn lease(&self) -> BoxFuture<'_, Result<Lease, ReadError>> {
        self.read(|state| Lease {
            epoch: state.epoch,
            applied_id: state.links.frontier(),
            applier: state.applier.clone(),
            renewed_at: state.renewals,
        })
    }

    fn face(&self) -> BoxFuture<'_, Result<Face, ReadError>> {
        self.read(|state| {
            let identity = state.identity.as_ref();
            identity.map_or_else(Face::default, |identity| state.links.face(identity))
        })
    }

    fn link(&self, id: WriteId) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>> {
        self.read(move |state| state.links.link(id))
    }

    fn page(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.read(move |state| state.links.page(after, limit))
    }

    fn newest(&self) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>> {
        self.read(|state| state.links.newest())
    }

    fn recent(&self, count: usize) -> BoxFuture<'_, Result<(Vec<Recent>, u64), ReadError>> {
        self.read(move |state| state.links.recent(count))
    }
}
