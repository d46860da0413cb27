//! The one place that makes PostgreSQL clients.
//!
//! Every session gets the same bounds (connect, statement, lock and idle timeouts, TCP keepalives),
//! settings that neither database nor login can change (`session.rs`) and, right after login, the
//! least role that does its work. There is no TLS yet: connect over loopback, a Unix socket or a
//! private network, to PostgreSQL itself and not through a pooler.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

pub use super::connect_error::ConnectError;
use super::connect_error::is_passing;
pub use super::dsn::{BadDsn, Dsn};
use super::remedy;
pub use super::role::{LOCK_MAX, Role, STATEMENT_MAX};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::describe;

use super::secret::Login;
use super::session::{self, Unusable};

/// Longest time one attempt to log in to one server may take.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest time sent bytes may stay unacknowledged before the connection counts as gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// The connection of a client; it must be polled for the client to work.
pub type Driver = Connection<Socket, NoTlsStream>;

const POOLED: &str = "the settings of a session do not reach PostgreSQL, so a pooler (pgbouncer or \
    the like) stands in between, which hands one session to many; the right to apply hangs on a \
    session of its own. Give host and port of PostgreSQL itself";

const REPLICATING: &str = "session_replication_role is replica for this login or database, so that \
    the triggers that guard the chain do not fire; reset it: alter role … reset \
    session_replication_role, alter database … reset session_replication_role";

impl Dsn {
    /// Longest time a log-in may take: each of its servers may use up [`CONNECT_MAX`].
    pub(super) fn login_max(&self) -> Duration {
        let count = u32::try_from(self.servers().len()).unwrap_or(1);
        CONNECT_MAX * count.clamp(1, 8)
    }

    /// The driver's settings for a session named `pghc NAME` (shown in `pg_stat_activity`) with a
    /// server of a major version.
    fn config(&self, role: Role, name: &str, version: i32) -> Result<Config, ConnectError> {
        let mut config = self.config.clone();
        let user = config.get_user().unwrap_or_default();
        let database = config.get_dbname().unwrap_or(user);
        let login = Login { servers: &self.servers(), database, user };
        match self.secret.password(login) {
            Ok(Some(password)) => {
                config.password(password);
            }
            Ok(None) => {}
            Err(why) => return Err(self.unusable(&why)),
        }
        let given = config.get_options().map(|given| format!("{given} ")).unwrap_or_default();
        config
            .connect_timeout(CONNECT_MAX)
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .application_name(format!("pghc {name}"))
            .options(given + &session::options(role, version));
        Ok(config)
    }

    fn unavailable(&self, source: Option<tokio_postgres::Error>) -> ConnectError {
        ConnectError::Unavailable { dsn: self.to_string(), source }
    }

    pub(super) fn unusable(&self, why: &dyn std::fmt::Display) -> ConnectError {
        ConnectError::Unusable { dsn: self.to_string(), message: why.to_string() }
    }

    /// Sorts an error of a session that is being made.
    pub(super) fn failure(&self, error: tokio_postgres::Error) -> ConnectError {
        match error.as_db_error() {
            Some(db) if session::is_poolers(db) => self.unusable(&POOLED),
            Some(db) if remedy::is_replaced(db) => {
                self.unusable(&format!("{} ({})", remedy::REPLACED, db.message()))
            }
            Some(db) if !is_passing(db.code()) => {
                ConnectError::Refused { dsn: self.to_string(), message: self.refusal(db) }
            }
            // The driver was asked for a password and has none.
            None if describe(&error).ends_with("password missing") => {
                let advice = self.secret.advice();
                self.unusable(&format!("it asks for a password and none is known; {advice}"))
            }
            _ => self.unavailable(Some(error)),
        }
    }

    /// The server's words; of a password that was refused, where it came from.
    fn refusal(&self, db: &DbError) -> String {
        if *db.code() == SqlState::INVALID_PASSWORD {
            return format!("{} ({})", db.message(), self.secret.advice());
        }
        db.message().to_owned()
    }

    /// Logs in, takes the role, and leaves the connection to the caller, who must poll it.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn open(&self, role: Role, name: &str) -> Result<(Client, Driver), ConnectError> {
        match tokio::time::timeout(self.login_max(), self.open_as_known(role, name)).await {
            Ok(opened) => opened,
            Err(_) => Err(self.unavailable(None)),
        }
    }

    async fn open_as_known(
        &self,
        role: Role,
        name: &str,
    ) -> Result<(Client, Driver), ConnectError> {
        let known = self.version.load(Ordering::Relaxed);
        match self.log_in(role, name, known).await {
            // An older server has taken the place of the one that answered before.
            Err(Unusable::Driver(error))
                if known > 0 && error.code() == Some(&SqlState::UNDEFINED_OBJECT) =>
            {
                self.version.store(0, Ordering::Relaxed);
                self.log_in(role, name, 0).await
            }
            opened => opened,
        }
        .map_err(|unusable| match unusable {
            Unusable::Driver(error) => self.failure(error),
            Unusable::Refused(error) => error,
            Unusable::Pooled => self.unusable(&POOLED),
            Unusable::Replicating => self.unusable(&REPLICATING),
        })
    }

    async fn log_in(
        &self,
        role: Role,
        name: &str,
        known: i32,
    ) -> Result<(Client, Driver), Unusable> {
        let config = self.config(role, name, known).map_err(Unusable::Refused)?;
        let (client, mut driver) = config.connect(NoTls).await?;
        let version = session::major(driver.parameter("server_version"));
        polling(&mut driver, session::begin(&client, role, known, version)).await?;
        self.version.store(version, Ordering::Relaxed);
        Ok((client, driver))
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
        tasks.spawn("postgres connection", drive(driver, name.to_owned()));
        Ok(client)
    }
}

/// Polls a connection until it ends, and says why it did.
pub(super) async fn drive(driver: Driver, name: String) {
    if let Err(error) = driver.await {
        tracing::warn!(session = name, error = describe(&error), "postgres connection ended");
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

/// Whether a schema, table or function that must be there is not.
pub(super) fn is_gone(code: &SqlState) -> bool {
    [SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION]
        .contains(code)
}
