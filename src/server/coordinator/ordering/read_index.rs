//! Linearizable reads (ReadIndex): after the barrier every acknowledged write is sequenced here.
//!
//! A zone may learn of a commit by acks before the leader does, so the leader's commit index is not
//! sufficient. The barrier waits for every entry in the leader's log at its start. No other
//! coordinator had an acknowledged write sooner, and earlier leaders' commits were in the log at
//! the election.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use tokio::time::timeout;
use tonic::Status;

use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::SequencerDriver;

/// Clones share the state.
#[derive(Clone)]
pub(crate) struct ReadIndexBarrier {
    raft: Raft,
    log: LogStore,
    driver: Arc<SequencerDriver>,
    limit: Duration,
}

impl ReadIndexBarrier {
    /// `limit` is the deadline of one barrier.
    pub(crate) fn new(
        raft: &Raft,
        log: &LogStore,
        driver: &Arc<SequencerDriver>,
        limit: Duration,
    ) -> Self {
        let (log, driver) = (log.clone(), Arc::clone(driver));
        Self { raft: raft.clone(), log, driver, limit }
    }

    /// Waits until every write acknowledged before the call is sequenced here.
    ///
    /// # Errors
    /// `UNAVAILABLE` if this coordinator does not lead, or if leadership and log are not confirmed
    /// within the limit.
    pub(crate) async fn wait(&self) -> Result<(), Status> {
        timeout(self.limit, self.confirm()).await.map_err(|_| {
            Status::unavailable("no majority has confirmed the read index in time; try again")
        })?
    }

    async fn confirm(&self) -> Result<(), Status> {
        // Read before leadership is confirmed. If another coordinator leads by then, the
        // confirmation fails. If this one was re-elected, it waits for the first entry of the new
        // term, behind all earlier commits.
        let next = self.log.next();
        let confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
        confirmed.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut sequenced = self.driver.next_index();
        let waited = sequenced.wait_for(|sequenced| *sequenced >= next).await;
        waited.map(drop).map_err(|_| Status::unavailable("the coordinator is shutting down"))
    }
}
