//! Keeps the log bounded: snapshots now and then, and purges what every zone has kept safely.

use std::sync::Arc;
use std::time::Duration;

use super::log_store::LogStore;
use super::sequencing::Sequencing;
use super::type_config::Raft;
use super::zones::Zones;

/// How often the log is looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Purging starts when the log is larger than this.
const KEEP_BYTES: u64 = 256 << 20;

/// Entries between two snapshots: replaying that many takes a second or two at a restart.
const SNAPSHOT_ENTRIES: u64 = 100_000;

pub(super) struct Maintenance {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) sequencing: Arc<Sequencing>,
    pub(super) zones: Arc<Zones>,
    /// Zones whose frontiers bound the purge.
    pub(super) zone_names: Vec<String>,
}

impl Maintenance {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let mut snapshot_at = 0;
        loop {
            tokio::time::sleep(PERIOD).await;
            let applied = self.sequencing.applied().0.map_or(0, |applied| applied.index());
            if applied >= snapshot_at + SNAPSHOT_ENTRIES {
                snapshot_at = applied;
                if let Err(error) = self.raft.trigger().snapshot().await {
                    tracing::error!(%error, "failed to start a snapshot");
                }
            }
            if self.log.bytes_on_disk() > KEEP_BYTES {
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
