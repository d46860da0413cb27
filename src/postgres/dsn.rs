//! Connection strings: a place, a login and a secret, put together from options.
//!
//! Invariant: neither an error nor a printed form repeats a part of the text that may be a secret. A
//! value is never repeated, and an option is named only if it is one that clients of PostgreSQL know.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};

pub use super::options::BadDsn;
use super::options::Options;
use super::secret::{Secret, Surroundings};
use super::service;

/// Where a database is and how to log in: a `postgres://` URL or `key=value` text. It may name
/// several servers, of which the first that answers (with `target_session_attrs=read-write`: the
/// first that is no replica) is taken. `service=` is looked up when the text is read, a password in a
/// file at every log-in. Its `Debug` and `Display` forms hold no password.
#[derive(Clone)]
pub struct Dsn {
    pub(super) config: Config,
    pub(super) secret: Secret,
    /// Newest major version that answered, 0 before: which settings a session may be born with.
    pub(super) version: Arc<AtomicI32>,
}

impl FromStr for Dsn {
    type Err = BadDsn;
    fn from_str(text: &str) -> Result<Self, BadDsn> {
        Self::parse(text, &Surroundings::of_process())
    }
}

impl Dsn {
    /// Reads a connection string; `service=` and the usual password file are looked for where
    /// `surroundings` say.
    pub(super) fn parse(text: &str, surroundings: &Surroundings) -> Result<Self, BadDsn> {
        let mut options = Options::read(text)?;
        if let Some(name) = options.0.remove("service") {
            let file = options.0.remove("servicefile");
            let more = service::find(&name, file.as_deref(), surroundings)?;
            for (key, value) in more {
                options.0.entry(key).or_insert(value);
            }
        }
        options.check()?;
        let mut config = Config::new();
        options.servers(&mut config)?;
        config.ssl_mode(SslMode::Disable);
        if let Some(user) = options.0.get("user") {
            config.user(user);
        }
        if let Some(name) = options.0.get("dbname") {
            config.dbname(name);
        }
        if let Some(given) = options.0.get("options") {
            config.options(given);
        }
        match options.get("target_session_attrs") {
            "read-write" | "primary" => config.target_session_attrs(TargetSessionAttrs::ReadWrite),
            "read-only" => config.target_session_attrs(TargetSessionAttrs::ReadOnly),
            _ => config.target_session_attrs(TargetSessionAttrs::Any),
        };
        if options.get("load_balance_hosts") == "random" {
            config.load_balance_hosts(LoadBalanceHosts::Random);
        }
        let secret = match options.0.get("password") {
            Some(password) => {
                config.password(password);
                Secret::Given
            }
            None => Secret::find(options.0.get("passfile").map(String::as_str), surroundings),
        };
        Ok(Self { config, secret, version: Arc::default() })
    }

    /// The same, with the password that is the first line of a file, whatever else the text says.
    #[must_use]
    pub fn with_password_file(mut self, path: &Path) -> Self {
        self.secret = Secret::Whole(path.into());
        self
    }

    /// Its servers, host and port each, in the order in which they are tried.
    pub(super) fn servers(&self) -> Vec<(String, u16)> {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let mut hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        if hosts.is_empty() {
            hosts = self.config.get_hostaddrs().iter().map(ToString::to_string).collect();
        }
        let ports = self.config.get_ports();
        let port = |place: usize| ports.get(place).or(ports.first()).copied().unwrap_or(5432);
        hosts.into_iter().enumerate().map(|(place, host)| (host, port(place))).collect()
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.config.get_user().unwrap_or_default();
        let places: Vec<_> =
            self.servers().iter().map(|(host, port)| format!("{host}:{port}")).collect();
        write!(f, "{user}@{}/{}", places.join(","), self.config.get_dbname().unwrap_or(user))
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}

#[cfg(test)]
mod tests;
