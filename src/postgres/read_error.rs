//! Why a read of a zone's database has no answer.

use pghc_api::id::WriteId;

use super::column::WrongColumn;
use super::connect_error::{ConnectError, is_passing};
use super::remedy::Replaced;

/// Why a read has no answer. Sorted by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Try again later: the database does not answer, is starting, or is busy.
    #[error("PostgreSQL did not answer in time")]
    Unavailable(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// Tell the operator: a link is not what pghc writes. The chain here has been changed by hand;
    /// `chain-verify` says where.
    #[error("link {id} of this database is damaged: its {column} is not readable")]
    Damaged {
        /// The link.
        id: i64,
        /// The column.
        column: &'static str,
    },
    /// Tell the operator: a link that this zone has applied is not there. It was removed by hand, or is
    /// hidden from the reading role.
    #[error(
        "link {id} was applied here and is not there: its row was removed or changed by hand, or a \
         policy hides it; chain-verify as the owner says which"
    )]
    Missing {
        /// The first one.
        id: u64,
    },
    /// Tell the operator: a link does not follow from the one before it.
    #[error(
        "link {id} does not follow from the link before it: one of the two was changed by hand; \
         chain-verify says which"
    )]
    Altered {
        /// The link.
        id: u64,
    },
    /// There is no session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Tell the operator: the schema was changed by hand.
    #[error(transparent)]
    Column(#[from] WrongColumn),
    /// Tell the operator: the server must be started again.
    #[error(transparent)]
    Replaced(#[from] Replaced),
    /// Tell the operator: PostgreSQL refuses the read; schema or privileges are not ours.
    #[error("PostgreSQL refuses a read with {sqlstate}: {message}")]
    Refused {
        /// Five characters of PostgreSQL's error code.
        sqlstate: String,
        /// The server's message.
        message: String,
    },
}

impl ReadError {
    /// The link that was changed, removed or hidden, if the read failed for that.
    pub fn changed_link(&self) -> Option<WriteId> {
        let id = match *self {
            Self::Damaged { id, .. } => id.cast_unsigned(),
            Self::Missing { id } | Self::Altered { id } => id,
            _ => return None,
        };
        WriteId::try_from(id).ok()
    }

    pub(super) fn sort(error: tokio_postgres::Error) -> Self {
        let error = match Replaced::of(error) {
            Ok(replaced) => return replaced.into(),
            Err(error) => error,
        };
        match error.as_db_error() {
            Some(db) if !is_passing(db.code()) => Self::Refused {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
            },
            _ => Self::Unavailable(Some(error.into())),
        }
    }
}
