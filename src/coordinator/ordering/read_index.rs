//! ReadIndexBarrier reads: after which everything that anybody was told to be written is sequenced here.
//!
//! A zone may know by acks that a write is committed before its leader does, so the leader's commit
//! index is not enough: the read waits for all that the leader's log holds when it begins. A write that
//! was acknowledged by then is there, since no other coordinator had it sooner; whatever an earlier
//! leader had committed was there when this one was elected.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use tokio::time::timeout;
use tonic::Status;

use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::SequencerDriver;

/// Clones are alike.
#[derive(Clone)]
pub(crate) struct ReadIndexBarrier {
    raft: Raft,
    log: LogStore,
    driver: Arc<SequencerDriver>,
    limit: Duration,
}

impl ReadIndexBarrier {
    /// `limit`: how long one attempt may take.
    pub(crate) fn new(
        raft: &Raft,
        log: &LogStore,
        driver: &Arc<SequencerDriver>,
        limit: Duration,
    ) -> Self {
        let (log, driver) = (log.clone(), Arc::clone(driver));
        Self { raft: raft.clone(), log, driver, limit }
    }

    /// Waits until everything acknowledged before the call is sequenced here.
    ///
    /// # Errors
    /// `UNAVAILABLE` if this coordinator does not lead, or no majority says within the limit that it
    /// still does, or what its log held is not committed by then.
    pub(crate) async fn wait(&self) -> Result<(), Status> {
        timeout(self.limit, self.confirm())
            .await
            .map_err(|_| Status::unavailable("a majority has not confirmed it in time"))?
    }

    async fn confirm(&self) -> Result<(), Status> {
        // Before the leadership is confirmed: had another led by now, that would fail, or, if this
        // coordinator was elected anew since, wait for the first entry of that term, which is behind
        // all that was committed before.
        let next = self.log.next();
        let confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
        confirmed.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut sequenced = self.driver.next_index();
        let waited = sequenced.wait_for(|sequenced| *sequenced >= next).await;
        waited.map(drop).map_err(|_| Status::unavailable("the coordinator is shutting down"))
    }
}
