//! Options of a server, and constants of all servers: superuser, database, oldest version.

use std::path::PathBuf;
use std::time::Duration;

/// The superuser of every server.
pub const SUPERUSER: &str = "postgres";
/// The database that [`Server::start`](super::Server::start) creates.
pub const DATABASE: &str = "pghc";

/// Oldest major version that pghc runs on.
pub const VERSION_MIN: u32 = 14;

/// Pause between two connection attempts, and between two polls of a process that should end.
pub(super) const POLL: Duration = Duration::from_millis(25);

/// Options of a server.
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
    /// Whether a new data directory may be lost when the machine (not the server) stops within
    /// about a minute. The directory is then a copy of this process's template, written without
    /// waiting for the disk, with the template's system identifier.
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
