//! Settings of a coordinator, and the errors of its start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::limits::TAIL_RING_BYTES_MAX;
use pghc_runtime::connections::TooFew;

use super::quorum_acks::Acks;
pub use pghc_runtime::geo::timing::Timing;
use pghc_runtime::telemetry::Metrics;

/// Settings of a coordinator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This coordinator's Raft id, never used by another one.
    pub id: u64,
    /// Directory of the log, vote and snapshot.
    pub data: PathBuf,
    /// Address to serve on.
    pub listen: SocketAddr,
    /// All coordinators, this one included: zone, and URL as reached from here. They found the
    /// group; afterwards the stored membership counts, and the URLs override its addresses.
    pub members: BTreeMap<u64, (ZoneName, String)>,
    /// Waits to be added to a group instead of founding one.
    pub join: bool,
    /// Zones to register before any of their nodes reports. Registered zones hold back the purge of
    /// the log.
    pub zones: Vec<ZoneName>,
    /// Raft timing.
    pub timing: Timing,
    /// Placement and timing adaptation.
    pub geo: Geo,
    /// Bounds of the log.
    pub retention: Retention,
    /// How this coordinator learns that entries are committed.
    pub acks: Acks,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
}

/// Why a coordinator did not start. Nothing was changed unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Wrong settings.
    #[error("{0}")]
    Settings(String),
    /// The log and the own connections need more open files than allowed.
    #[error(transparent)]
    Files(#[from] TooFew),
    /// The address is in use or not local.
    #[error("cannot listen on {0}; is another process using the port?")]
    Listen(SocketAddr, #[source] io::Error),
    /// The directory is not usable.
    #[error("cannot use the data directory {}", .0.display())]
    Data(PathBuf, #[source] io::Error),
    /// The directory belongs to another coordinator, or has lost data.
    #[error("coordinator {id} must not run on {dir}", id = .0, dir = .1.display())]
    Identity(u64, PathBuf, #[source] io::Error),
    /// The log is damaged or in use.
    #[error("cannot open the log")]
    Log(#[source] super::log::OpenError),
    /// openraft reported an error.
    #[error("the consensus core did not start: {0}")]
    Raft(String),
}

/// Bounds of the log, and the period of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The purge starts when the log exceeds this size on disk. It stops at the frontier of the
    /// slowest registered zone.
    pub log_bytes: u64,
    /// Above this size the log is purged even if a zone needs it: that zone is detached. Not below
    /// `log_bytes`. During a purge the log exceeds it by one segment (see
    /// [`Retention::segment_bytes`]) plus the writes of a few periods.
    pub log_bytes_max: u64,
    /// Entries between two snapshots: a restart replays them in one or two seconds.
    pub snapshot_entries: u64,
    /// Time between two checks.
    pub period: Duration,
    /// Bytes of the log's disk that stay free; below them writes are rejected.
    pub reserve_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            log_bytes: 1 << 30,
            log_bytes_max: 4 << 30,
            snapshot_entries: 100_000,
            period: Duration::from_secs(5),
            // Two segments.
            reserve_bytes: 128 << 20,
        }
    }
}

impl Retention {
    /// Returns the segment size in bytes. A purge frees whole segments and keeps two spares, so
    /// segments are small compared with `log_bytes`.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        (self.log_bytes / 16).clamp(64 << 10, 64 << 20)
    }

    /// Returns the bytes of newest batches kept in memory: at most `log_bytes`, at least 8 KiB.
    #[must_use]
    pub fn ring_bytes(&self) -> usize {
        usize::try_from(self.log_bytes)
            .unwrap_or(TAIL_RING_BYTES_MAX)
            .clamp(8 << 10, TAIL_RING_BYTES_MAX)
    }
}

/// Placement and timing adaptation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Geo {
    /// Initial state of automatic placement.
    pub auto: bool,
    /// Whether the timing follows measured round trips, which are then saved for the next start.
    pub adapts: bool,
    /// Whether no round trip is known, so that the timing is the one for distant coordinators.
    pub provisional: bool,
}
