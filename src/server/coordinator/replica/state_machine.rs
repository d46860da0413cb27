//! openraft's state machine: passes openraft's commits to the sequencer's driver.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use pghc_runtime::task::blocking;
use pghc_runtime::telemetry::Metrics;

use super::driver::SequencerDriver;
use super::snapshots::Snapshots;
use crate::coordinator::consensus::type_config::{
    LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::sequencer::View;

#[derive(Clone)]
pub(crate) struct StateMachine {
    driver: Arc<SequencerDriver>,
    snapshots: Snapshots,
    metrics: Arc<Metrics>,
}

impl StateMachine {
    pub(crate) fn new(
        driver: Arc<SequencerDriver>,
        snapshots: Snapshots,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { driver, snapshots, metrics }
    }
}

/// View of the state at one moment, to be written later.
pub(crate) struct Builder {
    snapshots: Snapshots,
    meta: SnapshotMeta,
    /// Taken when it is encoded.
    view: Option<View>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let view = self.view.take();
        let view = view.ok_or_else(|| io::Error::other("it was built before"))?;
        let encode = move || Bytes::from(view.encode());
        let state = blocking(encode).await?;
        save(&self.snapshots, &self.meta, &state).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: state })
    }
}

async fn save(snapshots: &Snapshots, meta: &SnapshotMeta, state: &Bytes) -> io::Result<()> {
    let (snapshots, meta, state) = (snapshots.clone(), meta.clone(), state.clone());
    blocking(move || snapshots.save(&meta, &state)).await?
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.driver.applied())
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let batches = self.driver.advance(entry)?;
            self.metrics.coordinator.commits_from_leader().inc_by(batches);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    /// Returns `None` while the state is ahead of openraft's commits; `retention` retries.
    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        let (meta, view) = self.driver.snapshot()?;
        Some(Builder { snapshots: self.snapshots.clone(), meta, view: Some(view) })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        unreachable!("openraft asks by `try_create_snapshot_builder`")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Bytes) -> io::Result<()> {
        self.driver.restore(meta, &state)?;
        save(&self.snapshots, meta, &state).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        blocking(move || snapshots.load()).await?
    }
}
