//! A session of the applier with a zone's database in memory.
//!
//! Invariant: a server executes a sent statement even if its process dies; after a lost connection
//! late or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pghc_api::id::NodeName;
use pghc_postgres::{Acquired, ApplyError, Batch};
use pghc_server::zone::database::Session;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::database::{SimDatabase, State};
use super::net::unowned;

/// Longest a client waits for an answer, as `postgres::apply` does.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The clock's step.
const STATEMENT_APART: Duration = Duration::from_millis(1);

pub(super) struct SimSession {
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
    pub(super) fn new(database: SimDatabase, id: u64) -> Self {
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
