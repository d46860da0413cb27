//! The model of a zone's database: what `sql/` promises to the applier and to readers, in memory. A
//! faulty one is slow, loses connections and, after a crash, what was not flushed.
//! `tests/sim/contract.rs` holds it to what PostgreSQL does.
//!
//! Invariant: the chain is dense, and grows only in the newest epoch. Hashes are computed and
//! compared by the applier, as for PostgreSQL. A server executes a sent statement even if its process
//! dies; after a lost connection late or never.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::links::{self, Links};
use super::net::unowned;
use super::rng::SeededRng;

/// Longest a client waits for an answer, as `postgres::apply` does.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The clock's step.
const STATEMENT_APART: Duration = Duration::from_millis(1);

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
struct State {
    links: Links,
    /// The frontier over time.
    steps: Vec<(Instant, u64)>,
    /// Links on disk.
    flushed: usize,
    epoch: u64,
    applier: Option<String>,
    renewals: i64,
    /// The session that holds the lock of the newest epoch, while it lives.
    holder: Option<u64>,
    sessions: BTreeSet<u64>,
    sessions_begun: u64,
    /// Counts stops of the server.
    run: u64,
    is_down: bool,
    /// Chance in a thousand that a statement's connection is lost.
    loss_per_mille: u64,
    latency_us: (u64, u64),
    /// Identity of the zone, once claimed.
    identity: Option<Identity>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Run and frontier.
    heard: fair_watch::Sender<(u64, u64)>,
    faults: Option<Faults>,
}

/// A database server with a zone's chain. Clones are the same one. The default has no faults: its
/// statements take no time, and a crash ends its sessions alone.
#[derive(Clone, Default)]
pub struct SimDatabase(Arc<Inner>);

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
    fn tell(&self, state: &State) {
        self.0.heard.send_replace((state.run, state.links.frontier()));
    }

    /// Time of one way between client and server.
    fn latency(&self) -> Duration {
        let latency_us = self.0.state.lock().latency_us;
        self.0.faults.as_ref().map_or(Duration::ZERO, |faults| faults.rng.micros(latency_us))
    }

    /// Lets `ways` ways of equal time pass.
    async fn travel(&self, ways: u32) {
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
    fn execute<T>(&self, session: u64, act: impl FnOnce(&mut State) -> T) -> Option<T> {
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
    fn end(&self, session: u64) {
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

struct SimSession {
    database: SimDatabase,
    id: u64,
    /// The epoch that it was let in with; 0: none.
    epoch: Arc<AtomicU64>,
    flushed: AtomicU64,
    /// When the newest statement reaches the server: they stay in order.
    newest: Mutex<Instant>,
}

impl SimSession {
    /// A session that the server knows by `id`.
    fn new(database: SimDatabase, id: u64) -> Self {
        let (epoch, flushed) = (Arc::default(), AtomicU64::new(0));
        Self { database, id, epoch, flushed, newest: Mutex::new(Instant::now()) }
    }

    /// Executes a statement on the server.
    async fn statement<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, ApplyError> {
        let (database, id) = (self.database.clone(), self.id);
        let Some(faults) = &self.database.0.faults else {
            return database.execute(id, act).ok_or(ApplyError::Lost(None));
        };
        let (sender, answer) = oneshot::channel();
        let (there, back) = (database.latency(), database.latency());
        let arrival = {
            let mut newest = self.newest.lock();
            *newest = (*newest + STATEMENT_APART).max(Instant::now() + there);
            *newest
        };
        let chance = database.0.state.lock().loss_per_mille;
        let loss = faults.rng.per_mille(chance).then(|| faults.rng.below(3));
        unowned(async move {
            sleep_until(arrival).await;
            // 0: lost on the way, the server never sees it.
            let done = if loss == Some(0) { None } else { database.execute(id, act) };
            if loss.is_some() {
                return lose(&database, id).await;
            }
            sleep(back).await;
            if let Some(done) = done {
                let _ = sender.send(done);
            }
        });
        match timeout(ANSWER_MAX, answer).await {
            Ok(Ok(done)) => Ok(done),
            _ => Err(ApplyError::Lost(None)),
        }
    }

    /// The session knows that the links up to `id` are on disk.
    fn note_flushed(&self, id: u64) {
        self.flushed.fetch_max(id, Ordering::Relaxed);
    }
}

/// Ends a session, after the server has noticed the loss of its client.
async fn lose(database: &SimDatabase, id: u64) {
    if let Some(faults) = &database.0.faults {
        sleep(faults.rng.millis(0, 3000)).await;
    }
    database.end(id);
}

fn fenced(state: &State) -> ApplyError {
    ApplyError::Fenced { epoch: state.epoch, applied_id: state.links.frontier() }
}

impl Drop for SimSession {
    fn drop(&mut self) {
        let (database, id) = (self.database.clone(), self.id);
        if database.0.faults.is_none() {
            database.end(id);
        } else if Handle::try_current().is_ok() {
            unowned(async move {
                database.travel(1).await;
                database.end(id);
            });
        }
    }
}

impl Session for SimSession {
    fn acquire<'a>(
        &'a self,
        node: &'a NodeName,
        expired: Option<u64>,
    ) -> BoxFuture<'a, Result<Acquired, ApplyError>> {
        Box::pin(async move {
            let (id, node, own) = (self.id, node.to_string(), Arc::clone(&self.epoch));
            let acquired = self
                .statement(move |state| {
                    if expired != Some(state.epoch) && state.holder.is_some_and(|it| it != id) {
                        let (epoch, applier) = (state.epoch, state.applier.clone());
                        return Acquired::Held { epoch, applier };
                    }
                    state.epoch += 1;
                    (state.applier, state.holder) = (Some(node), Some(id));
                    state.renewals += 1;
                    state.flushed = state.links.0.len();
                    own.store(state.epoch, Ordering::Relaxed);
                    Acquired::Granted { epoch: state.epoch, head: state.links.head() }
                })
                .await?;
            if let Acquired::Granted { head, .. } = &acquired {
                self.note_flushed(head.map_or(0, |head| head.id.get()));
            }
            Ok(acquired)
        })
    }

    fn apply<'a>(&'a self, epoch: u64, batch: &'a Batch) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(async move {
            let (links, own) = (batch.links().to_vec(), self.epoch.load(Ordering::Relaxed));
            let (digest_before, database) = (batch.before(), self.database.clone());
            self.statement(move |state| {
                let before = links[0].id.get() - 1;
                if state.epoch != epoch || state.links.frontier() != before || own != epoch {
                    return Err(fenced(state));
                }
                if state.links.head().map(|head| head.digest) != digest_before {
                    return Err(ApplyError::Forked { applied_id: before });
                }
                let first = state.links.0.len();
                state.links.0.extend(links);
                state.steps.push((Instant::now(), state.links.frontier()));
                if database.is_on_disk() {
                    state.flushed = state.links.0.len();
                }
                if let Some(faults) = &database.0.faults {
                    (faults.committed)(&state.links.0, first);
                }
                database.tell(state);
                Ok(())
            })
            .await??;
            if self.database.is_on_disk() {
                self.note_flushed(batch.head().id.get());
            }
            Ok(())
        })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Result<u64, ApplyError>> {
        Box::pin(async move {
            let own = self.epoch.load(Ordering::Relaxed);
            let flushed = self
                .statement(move |state| {
                    if state.epoch != epoch || own != epoch {
                        return Err(fenced(state));
                    }
                    state.renewals += 1;
                    state.flushed = state.links.0.len();
                    Ok(state.flushed as u64)
                })
                .await??;
            self.note_flushed(flushed);
            Ok(self.flushed())
        })
    }

    fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }
}
