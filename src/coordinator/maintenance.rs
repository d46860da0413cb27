//! Keeps the log bounded: snapshots now and then, and purges what every zone has kept safely.

use std::sync::Arc;
use std::time::Duration;

use super::log_store::LogStore;
use super::sequencing::Sequencing;
use super::type_config::Raft;
use super::zones::Zones;
use crate::telemetry::Metrics;

/// How much a coordinator keeps, and how often it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Purging starts when the log takes more bytes on disk than this.
    pub log_bytes: u64,
    /// Entries between two snapshots: replaying that many takes a second or two at a restart.
    pub snapshot_entries: u64,
    /// Time between two looks.
    pub period: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { log_bytes: 1 << 30, snapshot_entries: 100_000, period: Duration::from_secs(5) }
    }
}

pub(super) struct Maintenance {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) sequencing: Arc<Sequencing>,
    pub(super) zones: Arc<Zones>,
    /// Zones whose frontiers bound the purge.
    pub(super) zone_names: Vec<String>,
    pub(super) retention: Retention,
    pub(super) metrics: Arc<Metrics>,
}

impl Maintenance {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let mut snapshot_at = 0;
        loop {
            tokio::time::sleep(self.retention.period).await;
            let applied = self.sequencing.applied().0.map_or(0, |applied| applied.index());
            if applied >= snapshot_at + self.retention.snapshot_entries {
                snapshot_at = applied;
                if let Err(error) = self.raft.trigger().snapshot().await {
                    tracing::error!(%error, "failed to start a snapshot");
                }
            }
            let log_bytes = self.log.bytes_on_disk();
            self.metrics.coordinator.log_bytes.set(log_bytes);
            if log_bytes > self.retention.log_bytes {
                self.purge().await;
            }
        }
    }

    /// Purges up to the last entry that is in the snapshot and not needed by any zone. openraft
    /// itself never purges beyond its snapshot.
    async fn purge(&self) {
        let Some(flushed) = self.zones.flushed(&self.zone_names) else { return };
        let Some(upto) = self.sequencing.purgeable(flushed) else { return };
        match self.raft.trigger().purge_log(upto).await {
            Ok(()) => self.sequencing.forget_below(upto + 1),
            Err(error) => tracing::error!(%error, "failed to purge the log"),
        }
    }
}
