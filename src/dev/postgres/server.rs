//! One PostgreSQL server: started, waited for, stopped, killed and reaped.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use super::directory::Directory;
use super::error::Error;
use super::lock;
use super::options::{DATABASE, POLL, SUPERUSER, ServerOptions};
use super::template::Template;
use crate::process::Process;

/// Longest time a server may take to accept connections; crash recovery is part of it.
pub const READY_MAX: Duration = Duration::from_secs(60);
/// Longest time a fast shutdown may take before the server is killed.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Longest time one attempt to connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Script run by `sh` beside the server, with the data directory and the postmaster's id. The
/// script stops the server at the end of its standard input, so even a killed owner leaves no
/// process behind.
const LIFELINE: &str = r#"while read -r _; do :; done
read -r pid < "$1/postmaster.pid" && [ "$pid" = "$2" ] && kill -INT "$2""#;

/// Stops a server that a killed owner left running on `data_dir`; returns whether there was one.
///
/// # Errors
/// [`Error::StillRunning`] when it does not end even by SIGKILL.
pub async fn clear_stale_server(data_dir: &Path) -> Result<bool, Error> {
    lock::clear(data_dir, STOP_MAX).await
}

/// A PostgreSQL server. Dropping it stops it at once (immediate shutdown, crash recovery next time).
#[derive(Debug)]
pub struct Server {
    pub(super) directory: Directory,
    process: Process,
    /// Length of the log when this life of the server began, in bytes.
    pub(super) log_start: u64,
    /// Stops the server when we are killed; see [`LIFELINE`].
    lifeline: Process,
    /// Origin of the data directory's copy, kept for the next server.
    template: Option<Arc<Template>>,
}

impl Server {
    /// Creates the data directory if there is none, starts the server, waits until it answers, and
    /// creates the database [`DATABASE`] if there is none. A server that an earlier, killed owner
    /// left running on this directory is stopped first.
    ///
    /// # Errors
    /// See [`Error`]; no server runs then.
    pub async fn start(options: ServerOptions) -> Result<Self, Error> {
        let mut server = Self {
            directory: Directory::new(options)?,
            process: Process::default(),
            log_start: 0,
            lifeline: Process::default(),
            template: None,
        };
        if !server.directory.is_made() {
            // Asked before the seconds that initdb takes.
            server.check_port()?;
        }
        server.template = server.directory.create().await?;
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
                // Backends of a killed postmaster take a moment to notice its death; until the last
                // one ends, the shared memory is in use and a new postmaster refuses to start.
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
        clear_stale_server(&self.directory.options.data_dir).await?;
        self.directory.socket_dir.clear().map_err(Error::io("remove a stale socket"))?;
        self.directory.write_settings()?;
        self.log_start = std::fs::metadata(&self.directory.options.log).map_or(0, |log| log.len());
        self.check_port()?;
        let mut command = self.directory.command("postgres", &self.directory.options.data_dir)?;
        self.process
            .spawn(command.arg("-D").arg(&self.directory.options.data_dir))
            .map_err(Error::io("start postgres"))?;
        let pid = self.pid().expect("a process that was just started has an id").to_string();
        let mut lifeline = self.directory.command("/bin/sh", &self.directory.options.data_dir)?;
        lifeline
            .args(["-c", LIFELINE, "pghc-lifeline"])
            .arg(&self.directory.options.data_dir)
            .arg(pid);
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
        self.directory.options.port
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.directory.options.data_dir
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
                return Err(Error::exited(status, &self.directory.options.log, self.log_start));
            }
            let attempt = tokio::time::timeout(CONNECT_MAX, tokio_postgres::connect(&dsn, NoTls));
            if matches!(attempt.await, Ok(Ok(_))) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotReady { timeout, log: self.directory.options.log.clone() });
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
        let host = self.directory.socket_dir.escaped();
        format!("postgres://{SUPERUSER}@{host}:{}/{database}", self.directory.options.port)
    }

    /// Directory of its Unix socket: what PostgreSQL's programs take as `host`.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.directory.socket_dir.path()
    }

    /// Says that the port is taken more clearly than the server's log would.
    fn check_port(&self) -> Result<(), Error> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.directory.options.port);
        let bound = TcpListener::bind(address);
        bound.map(drop).map_err(|_| Error::PortInUse { port: self.directory.options.port })
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
