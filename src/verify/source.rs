//! Where links are read from: a zone's PostgreSQL, a zone's API, an export file.
//!
//! A source is opened, then frozen at one standing, then read. Reads after the freeze do not depend
//! on concurrent writes, so a live chain gives no false alarm.

use std::path::PathBuf;
use std::time::Duration;

use pghc_api::chain::Head;
use pghc_runtime::task::Tasks;
use tokio::time::Instant;

use super::api::Api;
use super::database::Database;
use super::export::Export;
use super::reading::{ReadError, Sink, Standing};

/// Pause between two polls of a zone that is behind.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A connection string of PostgreSQL. It may hold a password and is never printed.
    Database(String),
    /// Base URL of an API node, `http://host:port`.
    Api(String),
    /// Path of an NDJSON export.
    File(PathBuf),
}

impl Place {
    /// Its kind in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Database(_) => "postgres",
            Self::Api(_) => "api",
            Self::File(_) => "file",
        }
    }
}

/// An open source.
#[derive(Debug)]
pub(crate) enum Source {
    Database(Box<Database>),
    Api(Api),
    File(Export, Standing),
}

impl Source {
    /// Opens the source and asks how far it is.
    pub(crate) async fn open(place: &Place, tasks: &Tasks) -> Result<(Self, Standing), ReadError> {
        match place {
            Place::Database(dsn) => {
                let (database, standing) = Database::open(dsn, tasks).await?;
                Ok((Self::Database(Box::new(database)), standing))
            }
            Place::Api(url) => {
                let (api, standing) = Api::open(url).await?;
                Ok((Self::Api(api), standing))
            }
            Place::File(path) => {
                let (export, standing) = Export::open(path).await?;
                Ok((Self::File(export, standing.clone()), standing))
            }
        }
    }

    async fn standing(&mut self) -> Result<Standing, ReadError> {
        match self {
            Self::Database(database) => database.standing().await,
            Self::Api(api) => api.standing().await,
            Self::File(_, standing) => Ok(standing.clone()),
        }
    }

    /// Waits up to `wait` until the source has reached `target`, then freezes it.
    pub(crate) async fn freeze(
        &mut self,
        target: u64,
        wait: Duration,
    ) -> Result<Standing, ReadError> {
        let deadline = Instant::now() + wait;
        while !matches!(self, Self::File(..)) && Instant::now() < deadline {
            if self.standing().await?.end >= target {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        // The last poll freezes a zone.
        self.standing().await
    }

    /// Searches for faults that no range of links shows: rows outside of the reported range, tables
    /// that show their readers other rows, a frontier that is not its newest link `head`, and a
    /// truncated file.
    pub(crate) fn strays(&self, from: u64, head: Option<&Head>) -> Result<(), ReadError> {
        match self {
            Self::Database(database) => Ok(database.strays(from, head)?),
            Self::File(export, _) => export.is_whole(),
            Self::Api(_) => Ok(()),
        }
    }

    /// Feeds the links with ids from `from` to `to` to `sink`, ascending.
    pub(crate) async fn read(
        &mut self,
        from: u64,
        to: u64,
        sink: Sink<'_>,
    ) -> Result<(), ReadError> {
        match self {
            Self::Database(database) => database.read(from, to, sink).await,
            Self::Api(api) => api.read(from, to, sink).await,
            Self::File(export, _) => export.read(from, to, sink).await,
        }
    }
}
