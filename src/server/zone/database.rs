//! The calls of a node to its zone's database: the seam at which the simulation puts a model.
//!
//! The twin has to pass the same tests as PostgreSQL (`tests/sim/contract.rs`). What each call
//! promises is written at its PostgreSQL form in [`pghc_postgres`].

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use pghc_api::chain::{Digest, Link};
use pghc_api::id::{ClusterId, NodeName, WriteId};
use pghc_postgres::{
    Acquired, Applier, ApplyError, Batch, Commit, ConnectError, Dsn, Face, Finding, Lease,
    MigrateError, Page, ReadError, Reader, listen, migrate,
};
use pghc_runtime::task::Tasks;

use super::{Identity, Recent};

/// Newest applied ids, each another than the one before, until the session ends.
pub type Heard = BoxStream<'static, Result<u64, ReadError>>;

/// A zone's database.
pub trait Database: Send + Sync + 'static {
    /// Brings it to this binary's schema and claims it; see [`migrate()`].
    fn migrate<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Vec<Finding>, MigrateError>>;

    /// Opens a session that may become the applier; see [`Applier::connect`].
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Session>, ConnectError>>;

    /// Follows the frontier; see [`listen()`].
    fn listen(&self) -> BoxFuture<'_, Result<Heard, ConnectError>>;

    /// Returns the applier, its epoch and the frontier; see [`Reader::lease`].
    fn lease(&self) -> BoxFuture<'_, Result<Lease, ReadError>>;

    /// Returns the database's own account of itself, of one snapshot; see [`Reader::face`].
    fn face(&self) -> BoxFuture<'_, Result<Face, ReadError>>;

    /// One link and the frontier; see [`Reader::link`].
    fn link(&self, id: WriteId) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>>;

    /// The digest of a link as it stands there, however many read.
    fn digest(&self, id: WriteId) -> BoxFuture<'_, Result<Option<Digest>, ReadError>> {
        Box::pin(async move { Ok(self.link(id).await?.0.map(|link| link.digest)) })
    }

    /// Links above an id; see [`Reader::page`].
    fn page(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Page, ReadError>>;

    /// The newest link and the frontier; see [`Reader::newest`].
    fn newest(&self) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>>;

    /// The newest links and the frontier; see [`Reader::recent`].
    fn recent(&self, count: usize) -> BoxFuture<'_, Result<(Vec<Recent>, u64), ReadError>>;
}

/// A session that may become, and be, the applier; see [`Applier`].
pub trait Session: Send + Sync {
    /// See [`Applier::acquire`].
    fn acquire<'a>(
        &'a self,
        node: &'a NodeName,
        expired: Option<u64>,
    ) -> BoxFuture<'a, Result<Acquired, ApplyError>>;

    /// See [`Applier::apply`].
    fn apply<'a>(&'a self, epoch: u64, batch: &'a Batch) -> BoxFuture<'a, Result<(), ApplyError>>;

    /// See [`Applier::renew`].
    fn renew(&self, epoch: u64) -> BoxFuture<'_, Result<u64, ApplyError>>;

    /// See [`Applier::flushed`].
    fn flushed(&self) -> u64;
}

/// PostgreSQL.
pub struct Postgres {
    dsn: Dsn,
    commit: Commit,
    reader: Reader,
    /// A session of its own: it must be looked at however many read.
    watcher: Reader,
    tasks: Tasks,
}

impl Postgres {
    /// The database at `dsn`, read through at most `readers` sessions. Connects when first used.
    #[must_use]
    pub fn new(dsn: Dsn, commit: Commit, readers: usize, tasks: &Tasks) -> Self {
        let (reader, watcher) = (Reader::new(&dsn, readers), Reader::new(&dsn, 1));
        Self { dsn, commit, reader, watcher, tasks: tasks.clone() }
    }

    /// As [`Reader::recomputing`].
    #[must_use]
    pub fn recomputing(self, cluster: &ClusterId) -> Self {
        Self { reader: self.reader.recomputing(cluster), ..self }
    }
}

impl Database for Postgres {
    fn migrate<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> BoxFuture<'a, Result<Vec<Finding>, MigrateError>> {
        Box::pin(migrate(&self.dsn, &identity.cluster, &identity.zone, &self.tasks))
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Session>, ConnectError>> {
        Box::pin(async {
            let session = Applier::connect(&self.dsn, self.commit, &self.tasks).await?;
            Ok(Arc::new(session) as Arc<dyn Session>)
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Heard, ConnectError>> {
        Box::pin(listen(&self.dsn))
    }

    fn lease(&self) -> BoxFuture<'_, Result<Lease, ReadError>> {
        Box::pin(self.reader.lease())
    }

    fn face(&self) -> BoxFuture<'_, Result<Face, ReadError>> {
        Box::pin(self.watcher.face())
    }

    fn link(&self, id: WriteId) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>> {
        Box::pin(self.reader.link(id))
    }

    fn digest(&self, id: WriteId) -> BoxFuture<'_, Result<Option<Digest>, ReadError>> {
        Box::pin(async move { Ok(self.watcher.link(id).await?.0.map(|link| link.digest)) })
    }

    fn page(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Page, ReadError>> {
        Box::pin(self.reader.page(after, limit))
    }

    fn newest(&self) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>> {
        Box::pin(self.reader.newest())
    }

    fn recent(&self, count: usize) -> BoxFuture<'_, Result<(Vec<Recent>, u64), ReadError>> {
        Box::pin(self.reader.recent(count))
    }
}

impl Session for Applier {
    fn acquire<'a>(
        &'a self,
        node: &'a NodeName,
        expired: Option<u64>,
    ) -> BoxFuture<'a, Result<Acquired, ApplyError>> {
        Box::pin(self.acquire(node, expired))
    }

    fn apply<'a>(&'a self, epoch: u64, batch: &'a Batch) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(self.apply(epoch, batch))
    }

    fn renew(&self, epoch: u64) -> BoxFuture<'_, Result<u64, ApplyError>> {
        Box::pin(self.renew(epoch))
    }

    fn flushed(&self) -> u64 {
        self.flushed()
    }
}
