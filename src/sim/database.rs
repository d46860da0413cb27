//! A zone's database in memory: the contract of `sql/` with the applier and readers, without delay.
//! It stops and starts; applied links stay.
//!
//! Invariant: the chain is dense, and grows only in the newest epoch. Hashes are computed and
//! compared by the applier, as for PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pghc_api::chain::Link;
use pghc_api::id::{NodeName, WriteId};
use pghc_postgres::{
    Acquired, ApplyError, Batch, ConnectError, Face, Finding, Lease, MigrateError, Page, ReadError,
};
use pghc_runtime::task::fair_watch;
use pghc_server::zone::database::{Database, Heard, Session};
use pghc_server::zone::{Identity, Recent};
use tokio::time::Instant;

use super::links::{self, Links};

#[derive(Default)]
struct State {
    links: Links,
    /// The frontier over time.
    steps: Vec<(Instant, u64)>,
    epoch: u64,
    applier: Option<String>,
    renewals: i64,
    /// The session with the newest epoch, while it lives.
    holder: Option<u64>,
    sessions: u64,
    /// Counts starts.
    run: u64,
    is_down: bool,
    /// Identity of the zone, once claimed.
    identity: Option<Identity>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Run and frontier.
    heard: fair_watch::Sender<(u64, u64)>,
}

/// A database with a zone's chain. Clones are the same one.
#[derive(Clone, Default)]
pub struct MemDatabase(Arc<Inner>);

struct MemSession {
    database: MemDatabase,
    id: u64,
    run: u64,
    /// The epoch it was let in with; 0: none.
    epoch: AtomicU64,
}

impl State {
    fn fenced(&self) -> ApplyError {
        ApplyError::Fenced { epoch: self.epoch, applied_id: self.links.frontier() }
    }
}

impl MemDatabase {
    /// All links of the zone.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        self.0.state.lock().links.to_vec()
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

    /// Stops the database; its sessions end.
    pub fn stop(&self) {
        let told = {
            let mut state = self.0.state.lock();
            (state.is_down, state.holder) = (true, None);
            state.run += 1;
            (state.run, state.links.frontier())
        };
        self.0.heard.send_replace(told);
    }

    /// Starts the database again.
    pub fn start(&self) {
        self.0.state.lock().is_down = false;
    }

    fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        let seen = {
            let state = self.0.state.lock();
            (!state.is_down).then(|| look(&state)).ok_or(ReadError::Unavailable(None))
        };
        Box::pin(std::future::ready(seen))
    }

    /// The state, for a session that still lives.
    fn with<T>(
        &self,
        run: u64,
        act: impl FnOnce(&mut State) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let mut state = self.0.state.lock();
        if state.is_down || state.run != run {
            return Err(ApplyError::Lost(None));
        }
        act(&mut state)
    }
}

fn unavailable() -> ConnectError {
    ConnectError::Unavailable { dsn: "memory".to_owned(), source: None }
}

impl Database for MemDatabase {
    fn migrate<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Vec<Finding>, MigrateError>> {
        let is_down = {
            let mut state = self.0.state.lock();
            if !state.is_down {
                state.identity.get_or_insert_with(|| identity.clone());
            }
            state.is_down
        };
        let done = if is_down { Err(MigrateError::Connect(unavailable())) } else { Ok(Vec::new()) };
        Box::pin(std::future::ready(done))
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Session>, ConnectError>> {
        let mut state = self.0.state.lock();
        let done = if state.is_down {
            Err(unavailable())
        } else {
            state.sessions += 1;
            let (id, run) = (state.sessions, state.run);
            let (database, epoch) = (self.clone(), AtomicU64::new(0));
            Ok(Arc::new(MemSession { database, id, run, epoch }) as Arc<dyn Session>)
        };
        drop(state);
        Box::pin(std::future::ready(done))
    }

    fn listen(&self) -> BoxFuture<'_, Result<Heard, ConnectError>> {
        Box::pin(async {
            let (run, first, told) = {
                let state = self.0.state.lock();
                if state.is_down {
                    return Err(unavailable());
                }
                (state.run, state.links.frontier(), self.0.heard.subscribe())
            };
            Ok(links::heard(told, run, first))
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
            state
                .identity
                .as_ref()
                .map_or_else(Face::default, |identity| state.links.face(identity))
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

impl Session for MemSession {
    fn acquire<'a>(
        &'a self,
        node: &'a NodeName,
        expired: Option<u64>,
    ) -> BoxFuture<'a, Result<Acquired, ApplyError>> {
        let acquired = self.database.with(self.run, |state| {
            if expired != Some(state.epoch) && state.holder.is_some_and(|holder| holder != self.id)
            {
                let (epoch, applier) = (state.epoch, state.applier.clone());
                return Ok(Acquired::Held { epoch, applier });
            }
            state.epoch += 1;
            state.renewals += 1;
            (state.applier, state.holder) = (Some(node.to_string()), Some(self.id));
            self.epoch.store(state.epoch, Ordering::Relaxed);
            Ok(Acquired::Granted { epoch: state.epoch, head: state.links.head() })
        });
        Box::pin(std::future::ready(acquired))
    }

    fn apply<'a>(&'a self, epoch: u64, batch: &'a Batch) -> BoxFuture<'a, Result<(), ApplyError>> {
        let own = self.epoch.load(Ordering::Relaxed);
        let applied = self.database.with(self.run, |state| {
            let before = batch.links()[0].id.get() - 1;
            if state.epoch != epoch || own != epoch || state.links.frontier() != before {
                return Err(state.fenced());
            }
            if state.links.head().map(|head| head.digest) != batch.before() {
                return Err(ApplyError::Forked { applied_id: before });
            }
            state.links.extend_from_slice(batch.links());
            let frontier = state.links.frontier();
            state.steps.push((Instant::now(), frontier));
            Ok((state.run, frontier))
        });
        let applied = applied.map(|told| {
            self.database.0.heard.send_replace(told);
        });
        Box::pin(std::future::ready(applied))
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Result<u64, ApplyError>> {
        let own = self.epoch.load(Ordering::Relaxed);
        let renewed = self.database.with(self.run, |state| {
            if state.epoch != epoch || own != epoch {
                return Err(state.fenced());
            }
            state.renewals += 1;
            Ok(state.links.frontier())
        });
        Box::pin(std::future::ready(renewed))
    }

    fn flushed(&self) -> u64 {
        self.database.frontier()
    }
}

impl Drop for MemSession {
    fn drop(&mut self) {
        let mut state = self.database.0.state.lock();
        if state.holder == Some(self.id) {
            state.holder = None;
        }
    }
}
