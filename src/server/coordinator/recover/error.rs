//! Errors of an offline recovery.

use std::io;
use std::path::PathBuf;

/// Why a group cannot be recovered from directories. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Not a coordinator's directory, or not readable.
    #[error("{} is not a coordinator's data directory that can be read; nothing was changed", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The log is damaged, or the coordinator is running.
    #[error("cannot read the log; nothing was changed")]
    Log(#[source] crate::coordinator::log::OpenError),
    /// Snapshot and log leave a gap.
    #[error(
        "{}: the log begins at entry {first} but the snapshot only reaches up to entry {}: writes \
         between them are lost here. Nothing was changed; recover from another survivor",
        dir.display(), next.saturating_sub(1)
    )]
    Hole {
        /// The directory.
        dir: PathBuf,
        /// Oldest entry in the log.
        first: u64,
        /// The required entry.
        next: u64,
    },
    /// The directories do not belong together, or none was given.
    #[error("{0}; nothing was changed")]
    Mismatched(String),
    /// The survivor's log could not be written.
    #[error("{} could not be written; run the same command again", .0.display())]
    Write(PathBuf, #[source] io::Error),
}
