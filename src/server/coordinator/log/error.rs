//! Errors of opening a log, by the operator's remedy, and failures of an open log.

use std::io;
use std::path::PathBuf;

use super::frame::VERSION;

/// Why the log did not open. Nothing on the disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it: stop that process, or use another directory.
    #[error("the log in {dir} is in use by another process; nothing was changed")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Start the program version that wrote it.
    #[error(
        "{file} has format version {found}, and this program reads {wanted} only; nothing was \
         changed, start the program that wrote it",
        wanted = VERSION
    )]
    Version {
        /// The segment.
        file: PathBuf,
        /// Format version in the file.
        found: u8,
    },
    /// Keep this coordinator stopped.
    #[error(
        "{file} is damaged at byte {offset}: {what}. This coordinator has lost writes or votes \
         that it had acknowledged, so nothing in its directory can be trusted and it must not \
         take part again under its old id. The other coordinators have the data and go on as long as a \
         majority runs: keep this coordinator stopped, and replace it by a new one with an empty \
         directory (pghc members replace)"
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Byte offset of the damage.
        offset: u64,
        /// Kind of the damage.
        what: &'static str,
    },
    /// The file system refused: repair it and start again.
    #[error("the log in {dir} could not be opened; what it holds is as it was")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The file system's error.
        #[source]
        source: io::Error,
    },
}

/// Why the log accepts nothing more. Every later call returns the first failure.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    /// Failure of the disk during a write.
    pub(super) fn of_disk(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            text: format!(
                "the log could not be written ({error}); unacknowledged writes may or may not \
                 be on the disk, and the log accepts nothing more: repair the disk and restart"
            ),
        }
    }

    /// Panic of a callback or of the flusher itself.
    pub(super) fn of_flusher() -> Self {
        Self {
            kind: io::ErrorKind::Other,
            text: "the log's flusher has died, which is a bug; unacknowledged writes may or \
                   may not be on the disk: restart"
                .to_owned(),
        }
    }

    /// Failure of a call after the log was closed.
    pub(super) fn closed() -> Self {
        Self {
            kind: io::ErrorKind::BrokenPipe,
            text: "the log is closed; nothing was written".to_owned(),
        }
    }

    /// Converts the failure to an error of a call.
    pub(super) fn to_error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}
