//! Options, records and state of the log: plain data without behaviour.

use bytes::Bytes;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Number; the first record of a new log is 0.
    pub index: u64,
    /// Opaque; at most [`BODY_BYTES_MAX`](super::BODY_BYTES_MAX). A cached body keeps alive the
    /// memory that it is a slice of.
    pub body: Bytes,
}

/// Options of a log. The defaults suit a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size in bytes at which a segment ends; a longer record gets a segment of its own. Purging
    /// frees whole segments. Default 64 MiB, limits 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Zeros in bytes by which a new segment's file grows at a time. Default 1 MiB, limits 4 KiB to
    /// `segment_bytes`.
    pub grow_bytes: u64,
    /// Bytes of the newest bodies kept in memory, overhead included. Default 16 MiB.
    pub cache_bytes: usize,
    /// Most bytes queued for a flush; above it [`Log::append`](super::Log::append) blocks. Default
    /// 32 MiB, at least 1.
    pub queue_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            grow_bytes: 1 << 20,
            cache_bytes: 16 << 20,
            queue_bytes: 32 << 20,
        }
    }
}

/// State of a log besides its bodies. Durable only as far as callbacks have reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Newest purged index and the mark given with it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the oldest record; `None` when there are none.
    pub first: Option<u64>,
    /// Index of the newest record; `None` when there are none.
    pub last: Option<u64>,
    /// Newest vote given to [`Log::set_vote`](super::Log::set_vote).
    pub vote: Option<Bytes>,
    /// Newest index given to [`Log::set_committed`](super::Log::set_committed).
    pub committed: Option<Bytes>,
    /// Bytes on disk, preallocated and spare files included.
    pub bytes_on_disk: u64,
}
