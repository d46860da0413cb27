//! Results of reading a source: its standing, its links one by one, or the error.

use std::ops::ControlFlow;

use pghc_api::id::ClusterId;
use pghc_api::verify::{RawLink, Violation};

/// Largest id that a link can have.
pub(crate) const ID_MAX: u64 = i64::MAX.unsigned_abs();

/// Takes links as they are read; `Break` ends the reading.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&RawLink<'_>) -> ControlFlow<()> + Send);

/// How far a source is, by its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The cluster it says it belongs to.
    pub(crate) cluster: Option<ClusterId>,
    /// The zone it says it is of.
    pub(crate) zone: Option<String>,
    /// First id it can hold: 1 for a zone, the first one there for a file.
    pub(crate) first: u64,
    /// Newest id it says it holds, 0 for none.
    pub(crate) end: u64,
    /// Newest committed id the coordinators told it of.
    pub(crate) head: Option<u64>,
}

/// Why reading ended early. Sorted by what it says about the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// The source holds something a sound chain never holds.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Unread links are neither sound nor violated.
    #[error("{0}")]
    Unreadable(String),
    /// The node of an API source has halted: it found the zone's chain not to be the one that was ordered.
    #[error("{0}")]
    Halted(String),
    /// A file that is no export: the request makes no sense. The words go on after the file's name.
    #[error("{0}")]
    NoExport(String),
}
