//! What a coordinator is started with, and why it does not start.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::limits::TAIL_RING_BYTES_MAX;

use super::quorum_acks::Acks;
use crate::connections::TooFew;
pub use crate::geo::timing::Timing;
use crate::telemetry::Metrics;

/// What a coordinator is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This coordinator's Raft id, never used by another before.
    pub id: u64,
    /// Directory of log, vote and snapshot.
    pub data: PathBuf,
    /// Address to serve on.
    pub listen: SocketAddr,
    /// All coordinators, this one included: zone, and URL as reached from here. They found the group
    /// when it does not exist; later the stored membership counts, and these are only addresses.
    pub members: BTreeMap<u64, (ZoneName, String)>,
    /// Waits to be added to a group instead of founding one.
    pub join: bool,
    /// Zones that are registered before any of their nodes has reported, if they are not known yet.
    /// Registered zones hold back the purge of the log.
    pub zones: Vec<ZoneName>,
    /// Raft timing.
    pub timing: Timing,
    /// What is done about distances.
    pub geo: Geo,
    /// How much of the log is kept.
    pub retention: Retention,
    /// How it knows that entries are committed.
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
    /// The log and the coordinator's own connections need more open files than are allowed.
    #[error(transparent)]
    Files(#[from] TooFew),
    /// The address is taken or not ours.
    #[error("cannot listen on {0}; is another process using the port?")]
    Listen(SocketAddr, #[source] io::Error),
    /// The directory cannot be used.
    #[error("cannot use the data directory {}", .0.display())]
    Data(PathBuf, #[source] io::Error),
    /// The directory is not this coordinator's, or has lost what it had.
    #[error("coordinator {id} must not run on {dir}", id = .0, dir = .1.display())]
    Identity(u64, PathBuf, #[source] io::Error),
    /// The log is damaged or in use.
    #[error("cannot open the log")]
    Log(#[source] super::log::OpenError),
    /// openraft refused.
    #[error("the consensus core did not start: {0}")]
    Raft(String),
}

/// How much a coordinator keeps, and how often it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Purging starts when the log takes more bytes on disk than this, and goes as far as every
    /// registered zone lets it.
    pub log_bytes: u64,
    /// Above so many bytes the log is purged though a zone still needs it: that zone is detached.
    /// Not below `log_bytes`. What the log takes beyond it while a purge is under way is a segment
    /// (see [`Retention::segment_bytes`]) and what is written within a few of `period`.
    pub log_bytes_max: u64,
    /// Entries between two snapshots: replaying that many takes a second or two at a restart.
    pub snapshot_entries: u64,
    /// Time between two looks.
    pub period: Duration,
    /// Bytes of the log's disk that stay free: below, no writes are taken.
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
    /// Size of the log's segments in bytes. A purge frees whole segments and keeps two of them for
    /// later use: small enough that these do not count against a small `log_bytes`.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        (self.log_bytes / 16).clamp(64 << 10, 64 << 20)
    }

    /// Bytes of the newest batches kept in memory: no more than the log may take, at least 8 KiB.
    #[must_use]
    pub fn ring_bytes(&self) -> usize {
        usize::try_from(self.log_bytes)
            .unwrap_or(TAIL_RING_BYTES_MAX)
            .clamp(8 << 10, TAIL_RING_BYTES_MAX)
    }
}

/// What a coordinator does about distances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Geo {
    /// Whether the lead is placed automatically until that is switched.
    pub auto: bool,
    /// Whether the timing follows measured round trips: then they are kept for the next start.
    pub adapts: bool,
    /// Whether nothing was measured yet, so that the timing is the one of coordinators far apart.
    pub provisional: bool,
}
