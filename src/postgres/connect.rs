//! The one place that makes PostgreSQL clients.
//!
//! Every session gets the same bounds (connect, statement, lock and idle timeouts, TCP keepalives),
//! a fixed search path and, right after login, the least role that does its work. There is no TLS
//! yet: connect over loopback, a Unix socket or a private network. The session settings travel as
//! start-up options, so connect to PostgreSQL itself and not through a transaction pooler.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

use crate::task::Tasks;

/// Longest time one attempt to log in to one server may take.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest time a statement of an applier or reader may run in the server.
pub const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// Longest time a statement waits for a lock.
pub const LOCK_MAX: Duration = Duration::from_secs(5);
/// Longest time sent bytes may stay unacknowledged before the connection counts as gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Where a database is and how to log in: a `postgres://` URL or `key=value` text. It may name
/// several servers, of which the first that answers (with `target_session_attrs=read-write`: the
/// first that is no replica) is taken. Its `Debug` and `Display` forms hold no password.
#[derive(Clone)]
pub struct Dsn(Config);

/// The text is no usable connection string.
#[derive(Debug, thiserror::Error)]
#[error("the PostgreSQL connection string is not usable: {0}")]
pub struct BadDsn(&'static str, #[source] Option<tokio_postgres::Error>);

impl FromStr for Dsn {
    type Err = BadDsn;
    fn from_str(text: &str) -> Result<Self, BadDsn> {
        let config: Config = text.parse().map_err(|error| {
            BadDsn("want postgres://user@host:port/database or host=… dbname=…", Some(error))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(BadDsn("it names no host", None));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(BadDsn("sslmode=require, but this version speaks no TLS", None));
        }
        Ok(Self(config))
    }
}

impl Dsn {
    /// Its servers, `host:port` each, in the order in which they are tried.
    fn places(&self) -> Vec<String> {
        let host = |host: &tokio_postgres::config::Host| match host {
            tokio_postgres::config::Host::Tcp(name) => name.clone(),
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        };
        let mut hosts: Vec<String> = self.0.get_hosts().iter().map(host).collect();
        if hosts.is_empty() {
            hosts = self.0.get_hostaddrs().iter().map(ToString::to_string).collect();
        }
        let ports = self.0.get_ports();
        let port = |place: usize| ports.get(place).or(ports.first()).copied().unwrap_or(5432);
        let place = |(place, host)| format!("{host}:{}", port(place));
        hosts.into_iter().enumerate().map(place).collect()
    }

    /// Longest time a log-in may take: each of its servers may use up [`CONNECT_MAX`].
    pub(super) fn login_max(&self) -> Duration {
        let count = u32::try_from(self.places().len()).unwrap_or(1);
        CONNECT_MAX * count.clamp(1, 8)
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.0.get_user().unwrap_or_default();
        write!(f, "{user}@{}/{}", self.places().join(","), self.0.get_dbname().unwrap_or(user))
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}

/// What a session is for, and so which role it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Migrates and inspects; keeps the login role.
    Login,
    /// Adds links and moves the frontier.
    Applier,
    /// Reads.
    Reader,
    /// Reads and verifies. Keeps the login role where that is no member of `pghc_auditor`, so that
    /// a database whose roles were lost can still be looked at; never writes.
    Auditor,
}

impl Role {
    /// What a session says right after login. That it only reads is said here and not at start-up:
    /// `target_session_attrs=read-write` would take a session that is born so for a replica's.
    const fn set_role(self) -> &'static str {
        match self {
            Self::Login => "",
            Self::Applier => "set role pghc_applier",
            Self::Reader => "set role pghc_reader; set default_transaction_read_only = on",
            Self::Auditor => {
                "select set_config('role', rolname, false) from pg_catalog.pg_roles \
                 where rolname = 'pghc_auditor' and pg_has_role(oid, 'member'); \
                 set default_transaction_read_only = on"
            }
        }
    }

    const fn options(self) -> &'static str {
        match self {
            Self::Login => "-c default_transaction_read_only=off",
            // These sessions live long and look links up by id only. A plan made while the chain
            // was short must not scan all of it when it is long, and planning the apply statement
            // anew for each batch, as PostgreSQL would, costs more than the guards.
            Self::Applier => {
                "-c default_transaction_read_only=off -c plan_cache_mode=force_generic_plan \
                 -c enable_seqscan=off -c enable_bitmapscan=off"
            }
            Self::Reader => {
                "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
                 -c enable_bitmapscan=off"
            }
            Self::Auditor => "",
        }
    }

    /// A verifier's statements are long by nature; it is bounded by its own deadline.
    const fn statement_max(self) -> Duration {
        match self {
            Self::Applier | Self::Reader => STATEMENT_MAX,
            Self::Auditor | Self::Login => Duration::from_secs(3600),
        }
    }
}

/// Why there is no session. Nothing was written in either case.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Try again later: the server does not answer, is starting, or has no room.
    #[error("PostgreSQL at {dsn} does not answer")]
    Unavailable {
        /// Where, without the password.
        dsn: String,
        /// What the driver says.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    /// A person must act: wrong password, no such database, or a role that is missing or not
    /// granted to the login role.
    #[error("PostgreSQL at {dsn} refuses the session: {message}; check login, database and roles")]
    Refused {
        /// Where, without the password.
        dsn: String,
        /// The server's words.
        message: String,
    },
}

/// The connection of a client; it must be polled for the client to work.
pub type Driver = Connection<Socket, NoTlsStream>;

impl Dsn {
    /// The driver's settings for a session named `pghc NAME` (shown in `pg_stat_activity`).
    pub(super) fn config(&self, role: Role, name: &str) -> Config {
        let mut config = self.0.clone();
        let given = config.get_options().map(|given| format!("{given} ")).unwrap_or_default();
        config
            .connect_timeout(CONNECT_MAX)
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .application_name(format!("pghc {name}"))
            .options(format!(
                "{given}-c search_path=pg_catalog -c statement_timeout={} -c lock_timeout={} \
                 -c idle_in_transaction_session_timeout=10000 -c jit=off -c timezone=utc \
                 -c default_transaction_isolation=read\\ committed {}",
                role.statement_max().as_millis(),
                LOCK_MAX.as_millis(),
                role.options(),
            ));
        config
    }

    fn unavailable(&self, source: Option<tokio_postgres::Error>) -> ConnectError {
        ConnectError::Unavailable { dsn: self.to_string(), source }
    }

    /// Sorts an error of a session that is being made.
    pub(super) fn failure(&self, error: tokio_postgres::Error) -> ConnectError {
        match error.as_db_error() {
            Some(db) if !is_passing(db.code()) => {
                ConnectError::Refused { dsn: self.to_string(), message: db.message().to_owned() }
            }
            _ => self.unavailable(Some(error)),
        }
    }

    /// Logs in, takes the role, and leaves the connection to the caller, who must poll it.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open(&self, role: Role, name: &str) -> Result<(Client, Driver), ConnectError> {
        let opening = async {
            let config = self.config(role, name);
            let (client, mut driver) = config.connect(NoTls).await?;
            polling(&mut driver, take_role(&client, role)).await?;
            Ok((client, driver))
        };
        match tokio::time::timeout(self.login_max(), opening).await {
            Ok(opened) => opened.map_err(|error| self.failure(error)),
            Err(_) => Err(self.unavailable(None)),
        }
    }

    /// As [`Dsn::open`]; the connection becomes a task of `tasks` and ends with the client.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        &self,
        role: Role,
        name: &str,
        tasks: &Tasks,
    ) -> Result<Client, ConnectError> {
        let (client, driver) = self.open(role, name).await?;
        tasks.spawn("postgres connection", async move {
            if let Err(error) = driver.await {
                tracing::warn!(%error, "postgres connection ended");
            }
        });
        Ok(client)
    }
}

/// Takes the role for which a session was opened.
pub(super) async fn take_role(client: &Client, role: Role) -> Result<(), tokio_postgres::Error> {
    match role.set_role() {
        "" => Ok(()),
        set_role => client.batch_execute(set_role).await,
    }
}

/// Runs `work` while polling the connection it needs. When the connection ends first, the work
/// learns it from its client.
pub(super) async fn polling<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        _ = driver => work.await,
    }
}

/// Whether the server may do later what it refused now, without anybody's help or with an
/// operator's (disk space): connection trouble, conflicts, lack of resources, operator's stop,
/// I/O errors of the system, and a server that is (still) a replica.
pub(super) fn is_passing(code: &SqlState) -> bool {
    matches!(code.code().get(..2), Some("08" | "40" | "53" | "55" | "57" | "58"))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

/// Whether a schema, table or function that must be there is not.
pub(super) fn is_gone(code: &SqlState) -> bool {
    [SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION]
        .contains(code)
}

#[cfg(test)]
mod tests {
    use super::Dsn;

    #[test]
    fn a_dsn_never_shows_its_password() {
        for text in [
            "postgres://eve:secret@db.example:5433/app",
            "host=db.example port=5433 user=eve password=secret dbname=app",
        ] {
            let dsn: Dsn = text.parse().expect("a good connection string");
            assert_eq!(
                format!("{dsn} {dsn:?}"),
                "eve@db.example:5433/app Dsn(eve@db.example:5433/app)"
            );
        }
        let several: Dsn = "host=a,b port=1,2 user=u dbname=d".parse().expect("two servers");
        assert_eq!(several.to_string(), "u@a:1,b:2/d");
    }

    #[test]
    fn a_dsn_without_a_host_or_with_tls_is_refused_at_once() {
        for bad in ["", "dbname=app", "postgres://h/app?sslmode=require", "mysql://h/app"] {
            assert!(bad.parse::<Dsn>().is_err(), "{bad:?}");
        }
    }
}
