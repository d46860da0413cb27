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

/// What a log holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
}

impl Extent {
    /// Last index of the oldest entries without which about `keep` bytes are left; the index before
    /// the first when there are no more. Entries are taken to be of equal size.
    fn excess(&self, keep: u64) -> u64 {
        let entries = u128::from(self.last - self.first + 1);
        let excess = u128::from(self.bytes.saturating_sub(keep));
        let count = entries * excess / u128::from(self.bytes.max(1));
        (self.first + u64::try_from(count).unwrap_or_default()).saturating_sub(1)
    }
}

pub(super) struct Maintenance {
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) sequencing: Arc<Sequencing>,
    pub(super) zones: Arc<Zones>,
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
            self.metrics.coordinator.log_bytes.set(self.log.bytes_on_disk());
            let Some(log) = self.log.extent() else { continue };
            self.sequencing.forget_below(log.first);
            if log.bytes > self.retention.log_bytes {
                self.purge(log).await;
            }
        }
    }

    /// Purges what the log takes beyond half of its limit, as far as it is in the snapshot and not
    /// needed by any zone. openraft itself never purges beyond its snapshot.
    async fn purge(&self, log: Extent) {
        let Some(flushed) = self.zones.flushed() else { return };
        let Some(needless) = self.sequencing.purgeable(flushed) else { return };
        let upto = needless.min(log.excess(self.retention.log_bytes / 2));
        if upto >= log.first
            && let Err(error) = self.raft.trigger().purge_log(upto).await
        {
            tracing::error!(%error, "failed to purge the log");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Extent;

    #[test]
    fn only_what_is_over_the_limit_is_in_excess() {
        let log = Extent { first: 100, last: 199, bytes: 1000 };
        assert_eq!(log.excess(500), 149);
        assert_eq!(log.excess(0), 199);
        assert_eq!(log.excess(1000), 99);
    }
}
