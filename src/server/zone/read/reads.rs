//! Reads of this zone's chain: from its primary, or from a physical replica that is far enough.
//!
//! Invariant: what is answered shows at least everything up to the id that was needed, whichever
//! server it came from and whatever became of that server meanwhile; else nothing is answered. No server
//! is asked whose chain the coordinators do not vouch for (`guard.rs`, `replica.rs`), and no link is answered
//! that does not follow from the one before it: the guard is told of such a link and fences the zone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::telemetry::describe;
use tokio::time::{Instant, timeout_at};

use super::replica::Replica;
use crate::zone::database::Database;
use crate::zone::node_state::NodeState;
use crate::zone::{ReadError, ReadRequirement, ReadResult};

/// Pause before a server that was not far enough is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// A database that was asked for so long and answered nothing is not well.
const SILENCE: Duration = Duration::from_millis(100);

/// The servers of one zone that may be read.
pub(crate) struct Reads {
    primary: Arc<dyn Database>,
    replicas: Vec<Arc<Replica>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    node_state: Arc<NodeState>,
}

/// A query: what it found, and the frontier of the same snapshot.
type Query<T> = dyn Fn(Arc<dyn Database>) -> BoxFuture<'static, Result<(T, u64), pghc_postgres::ReadError>>
    + Send
    + Sync;

impl Reads {
    pub(crate) fn new(
        primary: Arc<dyn Database>,
        replicas: Vec<Arc<Replica>>,
        node_state: Arc<NodeState>,
    ) -> Self {
        Self { primary, replicas, turn: AtomicUsize::new(0), node_state }
    }

    /// Whether there is a replica to read from while the primary is away.
    pub(crate) fn has_replica(&self) -> bool {
        !self.replicas.is_empty()
    }

    /// Asks one server after another until one shows what is needed.
    pub(crate) async fn read<T>(
        &self,
        need: ReadRequirement,
        query: &Query<T>,
    ) -> Result<ReadResult<T>, ReadError> {
        self.servable(need.deadline).await?;
        let (mut furthest, begun) = (None, Instant::now());
        let mut failed;
        loop {
            failed = None;
            for (database, replica) in self.in_order(need.may_be_replica) {
                match timeout_at(need.deadline, query(database)).await {
                    Ok(Ok((value, frontier)))
                        if frontier >= need.at_least
                            || mutation::is_active(Mutant::TokenNotAwaited) =>
                    {
                        return Ok(ReadResult { value, frontier });
                    }
                    Ok(Ok((_, frontier))) => furthest = furthest.max(Some(frontier)),
                    Ok(Err(error)) => {
                        match (replica, error.changed_link()) {
                            (Some(replica), _) => replica.fails(),
                            (None, Some(id)) => self.node_state.found_changed(id),
                            (None, None) => {}
                        }
                        failed = Some(error);
                    }
                    // Late, or not there: nothing is known of where it is.
                    Err(_) => {}
                }
            }
            let is_over = Instant::now() + RETRY >= need.deadline
                || self.node_state.frontier.halted().is_some();
            if is_over || (failed.is_some() && !self.has_replica()) {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        if let Some(why) = self.node_state.frontier.halted() {
            return Err(ReadError::Halted(why));
        }
        if !self.is_servable() {
            return Err(self.unproven());
        }
        match failed {
            Some(error) => Err(match error.changed_link() {
                Some(id) => ReadError::Changed(id),
                None => ReadError::Database(describe(&error)),
            }),
            None => match furthest {
                Some(frontier) => Err(ReadError::Behind { frontier }),
                None if begun.elapsed() >= SILENCE => {
                    Err(ReadError::Database("nothing was answered in time".to_owned()))
                }
                // A read whose deadline has passed learns nothing of the database.
                None => Err(ReadError::Behind { frontier: self.node_state.frontier.id() }),
            },
        }
    }

    /// Waits until a server has what may be shown: a chain that the coordinators vouch for.
    async fn servable(&self, deadline: Instant) -> Result<(), ReadError> {
        while !self.is_servable() {
            if let Some(why) = self.node_state.frontier.halted() {
                return Err(ReadError::Halted(why));
            }
            let until = deadline.min(Instant::now() + RETRY);
            if !self.node_state.proven(until).await && until == deadline {
                return Err(self.unproven());
            }
        }
        match self.node_state.frontier.halted() {
            Some(why) => Err(ReadError::Halted(why)),
            None => Ok(()),
        }
    }

    fn unproven(&self) -> ReadError {
        ReadError::Unproven(
            self.node_state.doubted().unwrap_or_else(|| "no replica may be read".into()),
        )
    }

    /// Whether a server has what may be shown.
    pub(crate) fn is_servable(&self) -> bool {
        self.node_state.is_proven() || self.replicas.iter().any(|replica| replica.may_be_read())
    }

    /// The servers to ask: replicas first where one will do, the primary unless it is known to be
    /// away and a replica may answer instead.
    fn in_order(&self, replicas_first: bool) -> Vec<(Arc<dyn Database>, Option<&Replica>)> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.replicas.len();
        let rotated = (0..count).map(|place| &self.replicas[(start + place) % count]);
        let replicas: Vec<_> = rotated
            .filter(|r| r.may_be_read())
            .map(|r| (Arc::clone(&r.database), Some(&**r)))
            .collect();
        let is_away = self.node_state.database_error().is_some();
        let is_asked = self.node_state.is_proven() && (!is_away || replicas.is_empty());
        let primary = is_asked.then(|| (Arc::clone(&self.primary), None));
        if replicas_first || is_away {
            // One replica that is behind says nothing of the others, but two waits are enough.
            replicas.into_iter().take(2).chain(primary).collect()
        } else {
            primary.into_iter().chain(replicas.into_iter().take(1)).collect()
        }
    }
}
