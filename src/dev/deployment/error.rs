//! Why a deployment did not start or is not ready, sorted by what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::postgres;

/// Why something about a deployment failed. The chain's data is not changed by any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ask for something else.
    #[error("{0}; nothing was started")]
    BadOptions(String),
    /// Stop the other one first, or choose another directory.
    #[error(
        "a deployment already runs on {0}{1}; nothing was changed. Stop it (pghc dev --stop {0}) or \
         choose another directory", data.display(), of_process(*supervisor)
    )]
    AlreadyRuns {
        /// The directory.
        data: PathBuf,
        /// Process id of its supervisor, if it is known.
        supervisor: Option<u32>,
    },
    /// Name the directory that was given to `pghc dev --data`.
    #[error("there is no deployment in {}; nothing was stopped", data.display())]
    NoDeployment {
        /// The directory.
        data: PathBuf,
    },
    /// Check that process: it belongs to another user, or the system cannot end it.
    #[error(
        "the supervisor of {0}{1} does not end; its deployment runs on. Stop it as the user who started \
         it, or as root", data.display(), of_process(*supervisor)
    )]
    DoesNotStop {
        /// The directory.
        data: PathBuf,
        /// Process id of its supervisor, if it is known.
        supervisor: Option<u32>,
    },
    /// See the error below.
    #[error("the directory {} cannot be used; nothing was started", data.display())]
    Directory {
        /// The directory.
        data: PathBuf,
        /// Why.
        source: postgres::Error,
    },
    /// Use the zones that are there, or choose another directory.
    #[error(
        "{} holds a deployment of the zones {held}, not {wanted}; nothing was changed. Start it with \
         its own zones or choose another directory", data.display()
    )]
    OtherZones {
        /// The directory.
        data: PathBuf,
        /// Its zones.
        held: String,
        /// The requested zones.
        wanted: String,
    },
    /// Restore the file, or choose another directory.
    #[error(
        "{} is not readable as a deployment's identity; nothing was changed. Restore it from a copy or \
         choose another directory", file.display()
    )]
    BadPlan {
        /// The file.
        file: PathBuf,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// Choose another port, or stop the process that uses this one.
    #[error(
        "port {port} on 127.0.0.1 is in use by another process; stop it or choose another \
         --base-port"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Stop something.
    #[error("no free port was found on 127.0.0.1 from 10000 to 32000")]
    NoPort,
    /// Build it.
    #[error("the program pghc was not found at {}; build it: cargo build", path.display())]
    NoBinary {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// See the error below.
    #[error("the PostgreSQL of zone {zone} did not start")]
    Postgres {
        /// The zone.
        zone: String,
        /// Why.
        source: postgres::Error,
    },
    /// Stop it by hand.
    #[error("process {pid} of an earlier run on {} does not end; stop it: kill -9 {pid}", data.display())]
    StaleProcess {
        /// Its process id.
        pid: u32,
        /// The directory.
        data: PathBuf,
    },
    /// Read the log.
    #[error("{member} ends again and again; its log {} says:\n{log_tail}", log.display())]
    KeepsEnding {
        /// Zone and part.
        member: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        log_tail: String,
    },
    /// Wait longer, or read the logs.
    #[error("not ready within {timeout:?}: {missing}; the logs are in {}", logs.display())]
    NotReady {
        /// How long was waited.
        timeout: Duration,
        /// The processes that are not ready, with the reason.
        missing: String,
        /// Directory of the logs.
        logs: PathBuf,
        /// The log of the first that is missing, if that is known.
        log: Option<PathBuf>,
    },
    /// Correct the name.
    #[error("the deployment has no {0}")]
    NoSuchMember(String),
    /// The deployment was stopped meanwhile.
    #[error("the deployment is stopping")]
    Stopping,
    /// See the source.
    #[error("failed to {act} {}", path.display())]
    Io {
        /// The failed action.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn of_process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl Error {
    /// The end of the log of what is not ready, where the error does not quote it itself.
    #[must_use]
    pub fn log_end(&self) -> Option<String> {
        let Self::NotReady { log: Some(log), .. } = self else { return None };
        let end = postgres::tail(log).unwrap_or_else(|error| format!("(unreadable: {error})"));
        Some(format!("{} ends with:\n{end}", log.display()))
    }

    pub(super) fn io(
        act: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }
}
