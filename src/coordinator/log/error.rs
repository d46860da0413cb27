//! Why a log does not open, sorted by what the operator must do, and why one that was open has
//! stopped.

use std::io;
use std::path::PathBuf;

use super::frame::VERSION;

/// Why the log did not open. Nothing on the disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it: stop that one, or give this one a directory of its own.
    #[error("the log in {dir} is in use by another process; nothing was changed")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Start the version of the program that wrote it.
    #[error(
        "{file} has format version {found}, and this program reads {wanted} only; nothing was \
         changed, start the program that wrote it",
        wanted = VERSION
    )]
    Version {
        /// The segment.
        file: PathBuf,
        /// The version it states.
        found: u8,
    },
    /// Keep this coordinator stopped.
    #[error(
        "{file} is damaged at byte {offset}: {what}. This coordinator has lost writes or votes \
         that it had acknowledged, so nothing in its directory can be trusted and it must not \
         take part again under its old id. The others have the data and go on as long as a \
         majority runs: keep this coordinator stopped, and replace it by a new one with an empty \
         directory (pghc members replace)"
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
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

/// Why the log takes nothing more. The first failure, kept: it is the answer to every later call.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    /// The disk failed while something was being written.
    pub(super) fn of_disk(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            text: format!(
                "the log could not be written ({error}); what was not acknowledged may or may not \
                 be on the disk, and nothing more is taken: repair the disk and restart"
            ),
        }
    }

    /// A callback or the flusher itself panicked.
    pub(super) fn of_flusher() -> Self {
        Self {
            kind: io::ErrorKind::Other,
            text: "the log's flusher has died, which is a bug; what was not acknowledged may or \
                   may not be on the disk: restart"
                .to_owned(),
        }
    }

    /// The log was closed.
    pub(super) fn closed() -> Self {
        Self {
            kind: io::ErrorKind::BrokenPipe,
            text: "the log is closed; nothing was written".to_owned(),
        }
    }

    /// The failure as an error of a call.
    pub(super) fn to_error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}
