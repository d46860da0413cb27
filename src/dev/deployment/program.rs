//! One `pghc` process of a deployment, other than PostgreSQL: its command line, its log, its life.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use pghc_runtime::private;
use tokio::process::Command;

use super::Error;
use crate::postgres::{self, Server};
use crate::process::Process;

/// Longest time a program may take to end after SIGTERM before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A program that can be started any number of times.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) binary: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) log: PathBuf,
    /// Worker threads, unless the environment says how many.
    pub(super) threads: usize,
    pub(super) process: Process,
}

/// Environment variable from which tokio reads its number of worker threads; default: one for each
/// processor.
const THREADS: &str = "TOKIO_WORKER_THREADS";

impl Program {
    fn launch(&mut self) -> Result<(), Error> {
        let log = private::append(&self.log);
        let log = log.map_err(Error::io("open", &self.log))?;
        let again = log.try_clone().map_err(Error::io("open", &self.log))?;
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).stdout(log).stderr(again);
        if std::env::var_os(THREADS).is_none() {
            command.env(THREADS, self.threads.to_string());
        }
        self.process.spawn(&mut command).map_err(Error::io("start", &self.binary))
    }
}

/// Any child of a deployment.
#[derive(Debug)]
pub(super) enum Body {
    Server { server: Box<Server>, zone: String },
    Program(Box<Program>),
}

impl Body {
    /// Starts it, without waiting until it is ready. Cancel safe.
    pub(super) async fn launch(&mut self) -> Result<(), Error> {
        match self {
            Self::Server { server, zone } => {
                let wrap = |source| Error::Postgres { zone: zone.clone(), source };
                server.launch().await.map_err(wrap)
            }
            Self::Program(program) => program.launch(),
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Server { server, .. } => server.pid(),
            Self::Program(program) => program.process.pid(),
        }
    }

    pub(super) fn signal(&self, by: Signal) {
        match self {
            Self::Server { server, .. } => server.signal(by),
            Self::Program(program) => program.process.signal(by),
        }
    }

    /// Waits until it has ended; `None` when the operating system does not say how. Cancel safe.
    pub(super) async fn exited(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Server { server, .. } => server.exited().await.ok().flatten(),
            Self::Program(program) => program.process.exited().await.ok().flatten(),
        }
    }

    /// Asks it to end, kills it when it does not, reaps it. Cancel safe.
    pub(super) async fn stop(&mut self) -> io::Result<()> {
        match self {
            Self::Server { server, .. } => server.stop().await.map_err(to_io),
            Self::Program(program) => program.process.stop(Signal::SIGTERM, STOP_MAX).await,
        }
    }

    /// Kills and reaps it.
    pub(super) async fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Server { server, .. } => server.kill().await.map_err(to_io),
            Self::Program(program) => program.process.kill().await,
        }
    }
}

fn to_io(error: postgres::Error) -> io::Error {
    match error {
        postgres::Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}
