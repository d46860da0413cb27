//! A real PostgreSQL server under our care, as a direct child: it can be killed and started again.
//!
//! Invariant: at most one postmaster runs on a data directory, and it is reaped when it ends; an
//! unreaped one would keep its lock file alive and block the next start. The server listens on
//! loopback only and trusts everyone there. `fsync` stays on: what is tested is the real thing.
//!
//! When we are root, PostgreSQL refuses to run; it is then dropped to the user that owns the data
//! directory, else `postgres`, else `nobody`. Every directory above the data directory must let
//! that user pass (`chmod o+x`); [`super::scratch::Scratch`] makes one that does.

mod error;
mod install;
mod lock;

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_postgres::NoTls;

pub use error::Error;
use install::Owner;
pub use install::{Install, VERSION_MIN};

use super::process::signal as signal_process;

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
}

impl ServerOptions {
    /// A server on `data_dir` and `port` with its log beside the data directory (`….log`).
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, port: u16) -> Self {
        let data_dir = data_dir.into();
        let mut log = data_dir.clone().into_os_string();
        log.push(".log");
        Self { data_dir, port, log: log.into(), settings: Vec::new() }
    }
}

/// A PostgreSQL server. Dropping it stops it at once (immediate shutdown, crash recovery next time).
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    install: Install,
    owner: Option<Owner>,
    child: Option<Child>,
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
        options.data_dir = std::path::absolute(&options.data_dir).map_err(Error::io("find"))?;
        let owner = Owner::choose(&options.data_dir)?;
        let mut server = Self { options, install, owner, child: None };
        server.create_directory().await?;
        server.restart().await?;
        Ok(server)
    }

    /// Starts the server again on the same directory and port; a running one is stopped first.
    ///
    /// # Errors
    /// See [`Error`]; no server runs then.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop().await?;
        lock::clear(&self.options.data_dir, STOP_MAX).await?;
        self.write_settings()?;
        let deadline = Instant::now() + READY_MAX;
        loop {
            self.spawn()?;
            match self.wait_ready(deadline.saturating_duration_since(Instant::now())).await {
                Ok(()) => break,
                // Backends of a killed postmaster take a moment to notice; until the last has gone
                // the shared memory is in use and a new postmaster refuses to start.
                Err(Error::Exited { log_tail, .. })
                    if log_tail.contains("still in use") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => {
                    self.kill().await?;
                    return Err(error);
                }
            }
        }
        let created = self.create_database().await;
        if created.is_err() {
            self.kill().await?;
        }
        created
    }

    /// Connection string of the superuser to [`DATABASE`].
    #[must_use]
    pub fn dsn(&self) -> String {
        self.dsn_of(DATABASE)
    }

    /// Process id of the postmaster while it is believed to run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
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
            if let Some(status) = self.try_exited()? {
                return Err(Error::exited(status, &self.options));
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
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.wait().await.map_err(Error::io("wait for the server"))?;
        self.child = None;
        Ok(Some(status))
    }

    /// Sends `signal` to the postmaster; nothing when none runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            signal_process(pid, signal);
        }
    }

    /// Fast shutdown: open transactions are aborted, everything is flushed. After 15 seconds the
    /// server is killed, which loses nothing that was committed. Reaped in either case.
    ///
    /// # Errors
    /// When the operating system does not tell what became of it.
    pub async fn stop(&mut self) -> Result<(), Error> {
        self.signal(Signal::SIGINT);
        // A stopped (SIGSTOP) server would take no notice.
        self.signal(Signal::SIGCONT);
        match tokio::time::timeout(STOP_MAX, self.exited()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.kill().await,
        }
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

    fn dsn_of(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.options.port)
    }

    fn try_exited(&mut self) -> Result<Option<ExitStatus>, Error> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().map_err(Error::io("wait for the server"))?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// A command of the installation that runs as the server's user, in a process group of its own
    /// so that Ctrl-C in a terminal reaches us and not the server.
    fn command(&self, program: &str, directory: &Path) -> Result<Command, Error> {
        let log = fs::File::options().create(true).append(true).open(&self.options.log);
        let log = log.map_err(Error::io("open the server's log"))?;
        let again = log.try_clone().map_err(Error::io("open the server's log"))?;
        let mut command = Command::new(self.install.bin.join(program));
        command.arg("-D").arg(directory).current_dir(directory);
        command.env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(log).stderr(again).process_group(0);
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        Ok(command)
    }

    /// Runs `initdb` beside the final place and renames, so that a crash in between leaves nothing
    /// that looks like a data directory.
    async fn create_directory(&self) -> Result<(), Error> {
        let data_dir = &self.options.data_dir;
        let parent = data_dir.parent().unwrap_or(data_dir);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o711).create(parent).map_err(Error::io("create parents"))?;
        if let Some(log_parent) = self.options.log.parent() {
            builder.create(log_parent).map_err(Error::io("create the log's directory"))?;
        }
        if let Some(directory) = self.owner.and_then(|owner| owner.blocked_at(data_dir)) {
            return Err(Error::NotReachable { directory, data_dir: data_dir.clone() });
        }
        if data_dir.join("PG_VERSION").exists() {
            return self.check_version();
        }
        let mut new = data_dir.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        if new.exists() {
            fs::remove_dir_all(&new).map_err(Error::io("remove an unfinished data directory"))?;
        }
        let made = fs::DirBuilder::new().mode(0o700).create(&new);
        made.map_err(Error::io("create the data directory"))?;
        if let Some(owner) = self.owner {
            owner.take(&new).map_err(Error::io("give the data directory to its user"))?;
        }
        let mut initdb = self.command("initdb", &new)?;
        initdb.args(["--data-checksums", "--encoding=UTF8", "--locale=C", "--auth=trust"]);
        initdb.args(["--username", SUPERUSER, "--no-instructions"]);
        let status = initdb.status().await.map_err(Error::io("run initdb"))?;
        if !status.success() {
            return Err(Error::exited(status, &self.options));
        }
        let conf = fs::File::options().append(true).open(new.join("postgresql.conf"));
        conf.and_then(|mut file| file.write_all(b"\ninclude 'pghc.conf'\n"))
            .map_err(Error::io("write postgresql.conf"))?;
        fs::rename(&new, data_dir).map_err(Error::io("move the data directory into place"))
    }

    /// A data directory can only be opened by its own major version.
    fn check_version(&self) -> Result<(), Error> {
        let text = fs::read_to_string(self.options.data_dir.join("PG_VERSION"));
        let text = text.map_err(Error::io("read PG_VERSION"))?;
        let made_by = text.trim().to_owned();
        if made_by == self.install.version.to_string() {
            return Ok(());
        }
        let data_dir = self.options.data_dir.clone();
        Err(Error::OtherVersion { data_dir, made_by, installed: self.install.version })
    }

    /// Writes `pghc.conf`, sized for many small servers on one machine.
    fn write_settings(&self) -> Result<(), Error> {
        let mut text = String::from("# Written by pghc at every start; changes are lost.\n");
        let own = [
            ("listen_addresses", "127.0.0.1"),
            // Paths of sockets are limited to about 100 bytes; data directories are not.
            ("unix_socket_directories", ""),
            ("shared_buffers", "128MB"),
            ("max_connections", "100"),
            ("huge_pages", "off"),
            ("logging_collector", "off"),
            ("log_line_prefix", "%m [%p] "),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let port = self.options.port.to_string();
        let given = self.options.settings.iter().map(|(name, value)| (name.as_str(), &**value));
        for (name, value) in own.into_iter().chain([("port", &*port)]).chain(given) {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(self.options.data_dir.join("pghc.conf"), text)
            .map_err(Error::io("write pghc.conf"))
    }

    fn spawn(&mut self) -> Result<(), Error> {
        assert!(self.child.is_none(), "a second server would be started on one directory");
        // Asked before, because in its log PostgreSQL says it less clearly.
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.options.port);
        TcpListener::bind(address).map_err(|_| Error::PortInUse { port: self.options.port })?;
        let mut command = self.command("postgres", &self.options.data_dir)?;
        self.child = Some(command.spawn().map_err(Error::io("start postgres"))?);
        Ok(())
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
            if !matches!(self.try_exited(), Ok(None)) || self.child.is_none() {
                return;
            }
            std::thread::sleep(POLL);
        }
        self.signal(Signal::SIGKILL);
    }
}
