//! The model of a zone's database: what `sql/` promises, in memory, with the ways to fail that a
//! server has. `contract.rs` holds it to what PostgreSQL does.
//!
//! The server executes a sent statement even if its process dies; after a lost connection late or
//! never.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pghc_api::chain::{Head, Link, payload_digest};
use pghc_api::id::{NodeName, WriteId};
use pghc_postgres::{
    Acquired, ApplyError, Batch, ConnectError, Face, Finding, Lease, MigrateError, Page, ReadError,
};
use pghc_runtime::task::fair_watch;
use pghc_server::zone::database::{Database, Heard, Session};
use pghc_server::zone::{Identity, Recent};
use pghc_sim::{Links, SeededRng, heard};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::cluster_id;
use super::net::unowned;

/// Longest a client waits for an answer, as `postgres::apply` does.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The clock's step.
const STATEMENT_APART: Duration = Duration::from_millis(1);

/// Told of every commit before its answer is sent: the zone's links from this place on.
pub(crate) type Committed = Arc<dyn Fn(&[Link], usize) + Send + Sync>;

struct State {
    links: Links,
    /// Links on disk.
    flushed: usize,
    epoch: u64,
    applier: Option<String>,
    renewals: i64,
    /// The session that holds the lock of the newest epoch, while it lives.
    holder: Option<u64>,
    sessions: BTreeMap<u64, u64>,
    next_session: u64,
    /// Counts starts of the server.
    run: u64,
    is_up: bool,
    /// Chance in a thousand that a statement's connection is lost.
    loss_per_mille: u64,
    latency_us: (u64, u64),
    /// Identity of the zone, once claimed.
    identity: Option<Identity>,
}

struct Inner {
    state: Mutex<State>,
    heard: fair_watch::Sender<(u64, u64)>,
    rng: SeededRng,
    committed: Committed,
    /// Whether commits wait for the disk.
    on_disk: bool,
}

/// A database server with a zone's chain. Clones are the same one.
#[derive(Clone)]
pub(crate) struct ModelDatabase(Arc<Inner>);

struct TwinSession {
    model: ModelDatabase,
    id: u64,
    run: u64,
    /// The epoch that it was let in with; 0: none.
    epoch: Arc<AtomicU64>,
    flushed: AtomicU64,
    /// When the newest statement reaches the server: they stay in order.
    newest: Mutex<Instant>,
}

fn head_of(link: &Link) -> Head {
    let Link { id, hash, digest, written_at, .. } = *link;
    Head { id, hash, digest, written_at }
}

impl ModelDatabase {
    /// An empty database.
    pub(crate) fn new(rng: SeededRng, on_disk: bool, committed: Committed) -> Self {
        let state = State {
            links: Links::default(),
            flushed: 0,
            epoch: 0,
            applier: None,
            renewals: 0,
            holder: None,
            sessions: BTreeMap::new(),
            next_session: 1,
            run: 1,
            is_up: true,
            loss_per_mille: 0,
            latency_us: (150, 900),
            identity: None,
        };
        let heard = fair_watch::Sender::new((1, 0));
        Self(Arc::new(Inner { state: Mutex::new(state), heard, rng, committed, on_disk }))
    }

    /// All links.
    pub(crate) fn links(&self) -> Vec<Link> {
        self.0.state.lock().links.to_vec()
    }

    /// Newest applied id.
    pub(crate) fn frontier(&self) -> u64 {
        self.0.state.lock().links.frontier()
    }

    /// The server's process is killed, or its machine; what was not flushed is lost.
    pub(crate) fn crash(&self) {
        let mut state = self.0.state.lock();
        (state.is_up, state.holder) = (false, None);
        state.run += 1;
        state.sessions.clear();
        let flushed = state.flushed;
        state.links.truncate(flushed);
        let told = (state.run, flushed as u64);
        drop(state);
        self.0.heard.send_replace(told);
    }

    /// Starts the database again.
    pub(crate) fn start(&self) {
        self.0.state.lock().is_up = true;
    }

    /// A superuser rewrites the chain from link `first` on so that it is sound in itself: another payload
    /// there, and the digests of all that follow. Durable.
    pub(crate) fn forge(&self, first: u64) {
        let mut state = self.0.state.lock();
        let place = usize::try_from(first - 1).expect("small");
        let (before, rewritten) = state.links.split_at_mut(place);
        let mut before = before.last().map(head_of);
        for link in rewritten {
            if link.id.get() == first {
                link.payload = Some("\"forged\"".into());
            }
            let payload = link.payload.as_ref().map(|payload| payload_digest(payload.as_bytes()));
            let (cluster, node, at) = (cluster_id(), &link.node, link.written_at);
            let next = Head::extend(before.as_ref(), &cluster, node, at, payload);
            (link.hash, link.digest) = (next.hash, next.digest);
            before = Some(next);
        }
        state.flushed = state.links.len();
    }

    /// Another chain takes the place of this one. Durable.
    pub(crate) fn replace(&self, links: Vec<Link>) {
        let mut state = self.0.state.lock();
        state.links.clear();
        state.links.extend(links);
        state.flushed = state.links.len();
    }

    /// How often connections are lost, and how long statements take.
    pub(crate) fn trouble(&self, loss_per_mille: u64, latency_us: (u64, u64)) {
        let mut state = self.0.state.lock();
        (state.loss_per_mille, state.latency_us) = (loss_per_mille, latency_us);
    }

    fn latency(&self) -> Duration {
        let (low, high) = self.0.state.lock().latency_us;
        Duration::from_micros(self.0.rng.between(low, high))
    }

    fn connect_error() -> ConnectError {
        ConnectError::Unavailable { dsn: "the model".to_owned(), source: None }
    }

    /// Reads in one snapshot.
    fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        Box::pin(async move {
            sleep(self.latency()).await;
            let seen = {
                let state = self.0.state.lock();
                state.is_up.then(|| look(&state))
            };
            sleep(self.latency()).await;
            seen.ok_or(ReadError::Unavailable(None))
        })
    }
}

impl TwinSession {
    /// Executes a statement on the server. Returns `None` when the connection was lost.
    async fn statement<T: Send + 'static>(
        &self,
        act: impl FnOnce(&ModelDatabase, &mut State) -> T + Send + 'static,
    ) -> Result<T, ApplyError> {
        let (sender, answer) = oneshot::channel();
        let (model, id, run) = (self.model.clone(), self.id, self.run);
        let (there, back) = (model.latency(), model.latency());
        let arrival = {
            let mut newest = self.newest.lock();
            *newest = (*newest + STATEMENT_APART).max(Instant::now() + there);
            *newest
        };
        let loss = {
            let chance = model.0.state.lock().loss_per_mille;
            model.0.rng.per_mille(chance).then(|| model.0.rng.below(3))
        };
        unowned(async move {
            sleep_until(arrival).await;
            if loss == Some(0) {
                // Lost on the way: the server never sees it, and notices later.
                return model.lose(id).await;
            }
            let done = {
                let mut state = model.0.state.lock();
                let lives = state.is_up && state.run == run && state.sessions.contains_key(&id);
                lives.then(|| act(&model, &mut state))
            };
            if loss.is_some() {
                return model.lose(id).await;
            }
            sleep(back).await;
            if let Some(done) = done {
                let _ = sender.send(done);
            }
        });
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(done)) => Ok(done),
            _ => Err(ApplyError::Lost(None)),
        }
    }

    fn fenced(state: &State) -> ApplyError {
        ApplyError::Fenced { epoch: state.epoch, applied_id: state.links.frontier() }
    }
}

impl ModelDatabase {
    /// Ends a session, after the server has noticed the loss of its client.
    async fn lose(&self, id: u64) {
        sleep(self.0.rng.millis(0, 3000)).await;
        self.end(id);
    }

    fn end(&self, id: u64) {
        let mut state = self.0.state.lock();
        state.sessions.remove(&id);
        if state.holder == Some(id) {
            state.holder = None;
        }
    }
}

impl Drop for TwinSession {
    fn drop(&mut self) {
        let (model, id) = (self.model.clone(), self.id);
        if tokio::runtime::Handle::try_current().is_ok() {
            unowned(async move {
                sleep(model.latency()).await;
                model.end(id);
            });
        }
    }
}

impl Database for ModelDatabase {
    fn migrate<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Vec<Finding>, MigrateError>> {
        Box::pin(async {
            sleep(self.latency() * 4).await;
            let mut state = self.0.state.lock();
            match state.is_up {
                true => {
                    state.identity.get_or_insert_with(|| identity.clone());
                    Ok(Vec::new())
                }
                false => Err(MigrateError::Connect(Self::connect_error())),
            }
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Session>, ConnectError>> {
        Box::pin(async {
            sleep(self.latency() * 2).await;
            let mut state = self.0.state.lock();
            if !state.is_up {
                return Err(Self::connect_error());
            }
            let (id, run) = (state.next_session, state.run);
            state.next_session += 1;
            state.sessions.insert(id, run);
            let (epoch, flushed) = (Arc::default(), AtomicU64::new(0));
            let (model, newest) = (self.clone(), Mutex::new(Instant::now()));
            Ok(Arc::new(TwinSession { model, id, run, epoch, flushed, newest }) as Arc<dyn Session>)
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Heard, ConnectError>> {
        Box::pin(async {
            sleep(self.latency() * 2).await;
            let (run, first) = {
                let state = self.0.state.lock();
                if !state.is_up {
                    return Err(Self::connect_error());
                }
                (state.run, state.links.frontier())
            };
            Ok(heard(self.0.heard.subscribe(), run, first))
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

impl Session for TwinSession {
    fn acquire<'a>(
        &'a self,
        node: &'a NodeName,
        expired: Option<u64>,
    ) -> BoxFuture<'a, Result<Acquired, ApplyError>> {
        Box::pin(async move {
            let (id, node, own) = (self.id, node.to_string(), Arc::clone(&self.epoch));
            let acquired = self
                .statement(move |_, state| {
                    if expired != Some(state.epoch) && state.holder.is_some_and(|it| it != id) {
                        let (epoch, applier) = (state.epoch, state.applier.clone());
                        return Acquired::Held { epoch, applier };
                    }
                    state.epoch += 1;
                    (state.applier, state.holder) = (Some(node), Some(id));
                    state.renewals += 1;
                    state.flushed = state.links.len();
                    own.store(state.epoch, Ordering::Relaxed);
                    Acquired::Granted { epoch: state.epoch, head: state.links.head() }
                })
                .await?;
            if let Acquired::Granted { head, .. } = &acquired {
                self.flushed.fetch_max(head.map_or(0, |head| head.id.get()), Ordering::Relaxed);
            }
            Ok(acquired)
        })
    }

    fn apply<'a>(&'a self, epoch: u64, batch: &'a Batch) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(async move {
            let (links, own) = (batch.links().to_vec(), self.epoch.load(Ordering::Relaxed));
            let digest_before = batch.before();
            self.statement(move |model, state| {
                let before = usize::try_from(links[0].id.get() - 1).expect("small");
                if state.epoch != epoch || state.links.len() != before || own != epoch {
                    return Err(Self::fenced(state));
                }
                if state.links.head().map(|head| head.digest) != digest_before {
                    return Err(ApplyError::Forked { applied_id: before as u64 });
                }
                state.links.extend(links);
                if model.0.on_disk {
                    state.flushed = state.links.len();
                }
                (model.0.committed)(&state.links, before);
                let newest = (state.run, state.links.frontier());
                model.0.heard.send_replace(newest);
                Ok(())
            })
            .await??;
            if self.model.0.on_disk {
                self.flushed.fetch_max(batch.head().id.get(), Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Result<u64, ApplyError>> {
        Box::pin(async move {
            let own = self.epoch.load(Ordering::Relaxed);
            let flushed = self
                .statement(move |_, state| {
                    if state.epoch != epoch || own != epoch {
                        return Err(Self::fenced(state));
                    }
                    state.renewals += 1;
                    state.flushed = state.links.len();
                    Ok(state.flushed as u64)
                })
                .await??;
            self.flushed.fetch_max(flushed, Ordering::Relaxed);
            Ok(self.flushed())
        })
    }

    fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }
}
