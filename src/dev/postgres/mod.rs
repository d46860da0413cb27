//! A real PostgreSQL server under our care, as a direct child: it can be killed and started again.
//!
//! Invariant: at most one postmaster runs on a data directory, and it is reaped when it ends; an
//! unreaped one would keep its lock file alive and block the next start. `fsync` stays on: what is
//! tested is the real thing.
//!
//! The server trusts nobody. Its superuser has no password and logs in through a Unix socket in a
//! private directory, where the operating system says that it is our user. Over TCP, on loopback,
//! only logins that were given a password get in.
//!
//! When we are root, PostgreSQL refuses to run; it is then dropped to the user that owns the data
//! directory, else `postgres`, else `nobody`. Every directory above the data directory must let
//! that user pass. Directories that we make, and root's own ones below the system's temporary
//! directory, let its group pass and show nothing; any other closed one is reported and left as it is.

mod directory;
mod error;
mod install;
mod lock;
mod socket;
mod standby;
mod template;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_postgres::NoTls;

pub(super) use directory::make_directory;
pub use error::Error;
pub(super) use error::tail;
use install::Owner;
pub use install::{Install, VERSION_MIN};
use socket::SocketDirectory;
pub use socket::socket_of;

use super::process::Process;

/// The superuser of every server.
pub const SUPERUSER: &str = "postgres";
/// The database that [`Server::start`] creates.
pub const DATABASE: &str = "pghc";

/// Longest time a server may take to accept connections; crash recovery is part of it.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// Longest time a fast shutdown may take before the server is killed.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Longest time one attempt to connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Pause between two attempts to connect, and between two looks at a process that should end.
const POLL: Duration = Duration::from_millis(25);

/// Run by `sh` beside the server with the data directory and the postmaster's id. At the end of its
/// standard input, which comes when we are gone, it stops that server, so that even a killed owner
/// leaves nothing behind. It has no child and ends with us in any case.
const LIFELINE: &str = r#"while read -r _; do :; done
read -r pid < "$1/postmaster.pid" && [ "$pid" = "$2" ] && kill -INT "$2""#;

/// Stops a server that a killed owner left running on `data_dir`; answers whether there was one.
///
/// # Errors
/// [`Error::StillRunning`] when it does not end even by SIGKILL.
pub async fn clear_leftover(data_dir: &Path) -> Result<bool, Error> {
    lock::clear(data_dir, STOP_MAX).await
}

/// What a server needs to start.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Its data directory; created by `initdb` when it is not there, its parents too.
    pub data_dir: PathBuf,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// File its log is appended to.
    pub log: PathBuf,
    /// More settings for `postgresql.conf`, name and value; they win over ours.
    pub settings: Vec<(String, String)>,
    /// Whether a new data directory may be lost when the machine, not the server, stops within a
    /// minute or so: it is then a copy of one that this process made before, written without waiting
    /// for the disk, and has its system identifier. Nothing else differs.
    pub temporary: bool,
}

impl ServerOptions {
    /// A server on `data_dir` and `port` with its log beside the data directory (`….log`).
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, port: u16) -> Self {
        let data_dir = data_dir.into();
        let mut log = data_dir.clone().into_os_string();
        log.push(".log");
        Self { data_dir, port, log: log.into(), settings: Vec::new(), temporary: false }
    }
}

/// A PostgreSQL server. Dropping it stops it at once (immediate shutdown, crash recovery next time).
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    install: Install,
    owner: Option<Owner>,
    socket_dir: SocketDirectory,
    process: Process,
    /// Length of the log when this life of the server began, in bytes.
    log_start: u64,
    /// Stops the server when we are killed; see [`LIFELINE`].
    lifeline: Process,
    /// What its data directory is a copy of: the next server may need it too.
    template: Option<Arc<template::Template>>,
}

impl Server {
    /// Creates the data directory if there is none, starts the server, waits until it answers, and
    /// creates the database [`DATABASE`] if there is none. A server that an earlier, killed owner
    /// left running on this directory is stopped first.
    ///
    /// # Errors
    /// See [`Error`]; no server runs then.
    pub async fn start(options: ServerOptions) -> Result<Self, Error> {
        let install = Install::find()?;
        let mut options = options;
        let owner = Owner::choose(&options.data_dir)?;
        options.data_dir = directory::prepare_parent(&options.data_dir, owner)?;
        let socket_dir = SocketDirectory::of(&options.data_dir, owner)?;
        let mut server = Self {
            options,
            install,
            owner,
            socket_dir,
            process: Process::default(),
            log_start: 0,
            lifeline: Process::default(),
            template: None,
        };
        if !server.options.data_dir.join("PG_VERSION").exists() {
            // Asked before the seconds that initdb takes.
            server.check_port()?;
        }
        server.create_directory().await?;
        server.restart().await?;
        Ok(server)
    }

    /// Starts the server again on the same directory and port and waits until it answers; a running
    /// one is stopped first.
    ///
    /// # Errors
    /// See [`Error`]; no server runs then.
    pub async fn restart(&mut self) -> Result<(), Error> {
        let done = self.try_restart().await;
        if done.is_err() {
            self.kill().await?;
        }
        done
    }

    async fn try_restart(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            self.launch().await?;
            match self.wait_ready(deadline.saturating_duration_since(Instant::now())).await {
                Ok(()) => return self.create_database().await,
                // Backends of a killed postmaster take a moment to notice; until the last has gone
                // the shared memory is in use and a new postmaster refuses to start.
                Err(Error::Exited { log_tail, .. })
                    if log_tail.contains("still in use") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts the server again without waiting for it; a running one is stopped first. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; no server runs then.
    pub async fn launch(&mut self) -> Result<(), Error> {
        self.stop().await?;
        clear_leftover(&self.options.data_dir).await?;
        self.socket_dir.clear().map_err(Error::io("remove a stale socket"))?;
        self.write_settings()?;
        self.log_start = std::fs::metadata(&self.options.log).map_or(0, |log| log.len());
        self.check_port()?;
        let mut command = self.command("postgres", &self.options.data_dir)?;
        self.process
            .spawn(command.arg("-D").arg(&self.options.data_dir))
            .map_err(Error::io("start postgres"))?;
        let pid = self.pid().expect("a process that was just started has an id").to_string();
        let mut lifeline = self.command("/bin/sh", &self.options.data_dir)?;
        lifeline.args(["-c", LIFELINE, "pghc-lifeline"]).arg(&self.options.data_dir).arg(pid);
        self.lifeline = Process::default();
        self.lifeline.spawn(&mut lifeline).map_err(Error::io("start the server's lifeline"))
    }

    /// Connection string of the superuser to [`DATABASE`]; it works for our own user.
    #[must_use]
    pub fn dsn(&self) -> String {
        self.dsn_of(DATABASE)
    }

    /// Process id of the postmaster while it is believed to run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.options.port
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Waits until the server accepts connections.
    ///
    /// # Errors
    /// [`Error::Exited`] when it ended meanwhile, [`Error::NotReady`] after `timeout`.
    pub async fn wait_ready(&mut self, timeout: Duration) -> Result<(), Error> {
        let dsn = self.dsn_of("postgres");
        let deadline = Instant::now() + timeout;
        loop {
            let ended = self.process.try_exited().map_err(Error::io("wait for the server"))?;
            if let Some(status) = ended {
                return Err(Error::exited(status, &self.options, self.log_start));
            }
            let attempt = tokio::time::timeout(CONNECT_MAX, tokio_postgres::connect(&dsn, NoTls));
            if matches!(attempt.await, Ok(Ok(_))) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotReady { timeout, log: self.options.log.clone() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the server has ended and reaps it; at once when none runs. Cancel safe.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub async fn exited(&mut self) -> Result<Option<ExitStatus>, Error> {
        let status = self.process.exited().await.map_err(Error::io("wait for the server"))?;
        self.lifeline = Process::default();
        Ok(status)
    }

    /// Sends `signal` to the postmaster; nothing when none runs.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Fast shutdown: open transactions are aborted, everything is flushed. After 15 seconds the
    /// server is killed, which loses nothing that was committed. Reaped in either case. Cancel safe.
    ///
    /// # Errors
    /// When the operating system does not tell what became of it.
    pub async fn stop(&mut self) -> Result<(), Error> {
        let stopped = self.process.stop(Signal::SIGINT, STOP_MAX).await;
        stopped.map_err(Error::io("stop the server"))?;
        self.lifeline = Process::default();
        Ok(())
    }

    /// Kills the postmaster with SIGKILL and reaps it, as a crash would: crash recovery follows at
    /// the next start.
    ///
    /// # Errors
    /// When the operating system does not tell what became of it.
    pub async fn kill(&mut self) -> Result<(), Error> {
        self.signal(Signal::SIGKILL);
        self.exited().await.map(drop)
    }

    /// The same to another database.
    #[must_use]
    pub fn dsn_of(&self, database: &str) -> String {
        let host = self.socket_dir.escaped();
        format!("postgres://{SUPERUSER}@{host}:{}/{database}", self.options.port)
    }

    /// Directory of its Unix socket: what PostgreSQL's programs take as `host`.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.socket_dir.path()
    }

    /// Says that the port is taken more clearly than the server's log would.
    fn check_port(&self) -> Result<(), Error> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.options.port);
        let bound = TcpListener::bind(address);
        bound.map(drop).map_err(|_| Error::PortInUse { port: self.options.port })
    }

    async fn create_database(&self) -> Result<(), Error> {
        let (client, connection) = tokio_postgres::connect(&self.dsn_of("postgres"), NoTls).await?;
        let work = async {
            let known = "select 1 from pg_catalog.pg_database where datname = $1";
            if client.query_opt(known, &[&DATABASE]).await?.is_none() {
                client.batch_execute(&format!("create database {DATABASE}")).await?;
            }
            Ok(())
        };
        tokio::select! {
            done = work => done,
            ended = connection => ended.map_err(Error::from),
        }
    }
}

impl Drop for Server {
    /// Waits up to 3 seconds, so that the directory may be removed right after.
    fn drop(&mut self) {
        self.signal(Signal::SIGQUIT);
        self.signal(Signal::SIGCONT);
        for _ in 0..120 {
            if self.pid().is_none() || self.process.try_exited().is_err() {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}
