//! Why there is no session, and which refusals of a server pass by themselves.

use tokio_postgres::error::SqlState;

/// Why there is no session. Nothing was written in any case.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Try again later: the server does not answer, is starting, or has no room.
    #[error("PostgreSQL at {dsn} does not answer")]
    Unavailable {
        /// Where, without the password.
        dsn: String,
        /// The driver's error.
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
    /// A person must act, as the message says.
    #[error("no session with PostgreSQL at {dsn} can be used: {message}")]
    Unusable {
        /// Where, without the password.
        dsn: String,
        /// The fault and the remedy.
        message: String,
    },
}

impl ConnectError {
    /// Whether the server has no room for one more session.
    pub(super) fn is_full(&self) -> bool {
        let Self::Unavailable { source: Some(error), .. } = self else { return false };
        error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS)
    }
}

/// Whether the server may do later what it refused now, without help or with an
/// operator's (disk space): connection trouble, conflicts, lack of resources, operator's stop,
/// I/O errors of the system, and a server that is (still) a replica.
pub(super) fn is_passing(code: &SqlState) -> bool {
    matches!(code.code().get(..2), Some("08" | "40" | "53" | "55" | "57" | "58"))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}
