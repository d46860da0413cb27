//! Why a PostgreSQL server did not start, sorted by what to do about it.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::options::VERSION_MIN;

/// Bytes of the end of a log that an error quotes.
const LOG_TAIL_BYTES: u64 = 2_000;

/// Why a server did not start or stop. Data that was committed is not touched by any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Install it.
    #[error(
        "no PostgreSQL from version {VERSION_MIN} on was found in PATH or the usual places \
         (found: {found}); install it, for example: {}",
        install_command()
    )]
    NotInstalled {
        /// The version that was found.
        found: String,
    },
    /// Create a user: we are root and PostgreSQL refuses to run as root.
    #[error(
        "PostgreSQL does not run as root and there is neither a user postgres nor nobody; \
         create one (useradd --system postgres) or run as another user"
    )]
    NoUser,
    /// Choose another directory or open this one.
    #[error(
        "the user PostgreSQL runs as may not pass through {}; no database was created. Choose \
         another place than {} or allow it: chmod o+x {}",
        directory.display(), data_dir.display(), directory.display()
    )]
    NotReachable {
        /// The directory that is closed.
        directory: PathBuf,
        /// The data directory below it.
        data_dir: PathBuf,
    },
    /// Install the other version, or choose another directory.
    #[error(
        "{} was made by PostgreSQL {made_by} and the newest installed is {installed}; it was not \
         touched. Install version {made_by} or choose another directory", data_dir.display()
    )]
    OtherVersion {
        /// The data directory.
        data_dir: PathBuf,
        /// Its version.
        made_by: String,
        /// The newest installed.
        installed: u32,
    },
    /// Choose another port, or stop the process that uses this one.
    #[error(
        "port {port} on 127.0.0.1 is in use by another process; stop it or choose another port"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Stop that server by hand.
    #[error(
        "process {pid} serves {} and did not stop; the data is untouched. Stop it by hand: \
         kill -9 {pid}", data_dir.display()
    )]
    StillRunning {
        /// Its postmaster.
        pid: u32,
        /// The directory it serves.
        data_dir: PathBuf,
    },
    /// Read the log.
    #[error("PostgreSQL ended with {status}; its log {} says:\n{log_tail}", log.display())]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        log_tail: String,
    },
    /// Wait longer, or read the log.
    #[error("PostgreSQL took no connection within {timeout:?}; see its log {}", log.display())]
    NotReady {
        /// How long was waited.
        timeout: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// The server refused with an unexpected error.
    #[error("PostgreSQL refused to create the database")]
    Database(#[from] tokio_postgres::Error),
    /// See the source.
    #[error("failed to {act}")]
    Io {
        /// The failed action.
        act: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(act: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { act, source }
    }

    /// `log_start` is where in the log this life of the server begins.
    pub(super) fn exited(status: ExitStatus, log: &Path, log_start: u64) -> Self {
        let log_tail = tail_from(log, log_start);
        let log_tail = log_tail.unwrap_or_else(|error| format!("(unreadable: {error})"));
        Self::Exited { status, log: log.to_owned(), log_tail }
    }
}

/// The last lines of a log, up to 2,000 bytes.
pub(crate) fn tail(log: &Path) -> io::Result<String> {
    tail_from(log, 0)
}

fn tail_from(log: &Path, start: u64) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES).max(start)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// The command that installs PostgreSQL here, by the package manager that is there.
fn install_command() -> &'static str {
    let known = [
        ("/usr/bin/apt-get", "apt-get install postgresql"),
        ("/usr/bin/dnf", "dnf install postgresql-server"),
        ("/sbin/apk", "apk add postgresql"),
        ("/usr/bin/pacman", "pacman -S postgresql"),
        ("/usr/bin/zypper", "zypper install postgresql-server"),
        ("/opt/homebrew/bin/brew", "brew install postgresql@17"),
    ];
    let found = known.iter().find(|(manager, _)| Path::new(manager).exists());
    found.map_or("see https://www.postgresql.org/download/", |(_, command)| command)
}
