//! The applier's session: taking the right to apply, applying batches, keeping the right.
//!
//! Invariant: a batch's rows and the frontier commit together or not at all, only in the session that
//! holds the newest epoch, and only behind the link that this session believes to be the newest.
//! `pghc.apply` (`sql/migrations/V2__apply.sql`) enforces it; no role of ours can write without it.
//! This module computes no hash and decides nothing about takeover.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pghc_api::chain::{Digest, Head, Link};
use pghc_api::id::{NodeName, WriteId};
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::task::Tasks;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::column::{Bytes32, Hex, JsonText, Timestamp, WrongColumn, get};
use super::connect::{ConnectError, Dsn, Role, STATEMENT_MAX};
use super::remedy::Replaced;

/// SQLSTATE with which the schema refuses what would damage the chain, or does not continue it.
pub const CHAIN_DAMAGED: &str = "PH002";

/// SQLSTATE with which the schema refuses a batch that continues another chain than the one here.
const CHAIN_FORKED: &str = "PH003";

/// Longest time to wait for an answer. The server gives up before; this is for a server that has
/// stopped, or a network that has gone.
const ANSWER_MAX: Duration = Duration::from_secs(STATEMENT_MAX.as_secs() + 5);

/// When a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commit {
    /// When it is on disk (`synchronous_commit = on`; on synchronous replicas too if there are any).
    #[default]
    OnDisk,
    /// Before (`synchronous_commit = off`). A crash of the server loses the newest rows and the
    /// frontier with them; both are applied again from the log. [`Applier::flushed`] lags.
    InMemory,
}

/// Links to apply in one transaction: not empty, in id order without a gap.
#[derive(Debug)]
pub struct Batch {
    before: Option<Digest>,
    links: Vec<Link>,
}

impl Batch {
    /// A batch of these links, which continue the link of digest `before`; `None` for link 1 only.
    ///
    /// # Panics
    /// If there is no link, their ids are not dense, or only one of `before` and id 1 is there: the
    /// applier has lost count, and going on would damage the chain (the database would refuse it, too).
    #[must_use]
    pub fn new(before: Option<Digest>, links: Vec<Link>) -> Self {
        assert!(!links.is_empty(), "a batch holds at least one link");
        assert_eq!(
            before.is_none(),
            links[0].id.get() == 1,
            "every link but the first has one before"
        );
        for pair in links.windows(2) {
            assert_eq!(pair[0].id.next(), pair[1].id, "the ids of a batch are dense");
        }
        Self { before, links }
    }

    /// Digest of the link before the first; `None` when that is link 1.
    #[must_use]
    pub fn before(&self) -> Option<Digest> {
        self.before
    }

    /// The links, ascending.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The chain's head when this batch has been applied.
    #[must_use]
    pub fn head(&self) -> Head {
        let last = self.links.last().expect("a batch is not empty");
        Head { id: last.id, hash: last.hash, digest: last.digest, written_at: last.written_at }
    }

    /// Where the frontier must be before: the id before the first link's, 0 for link 1.
    fn applied_before(&self) -> i64 {
        self.links[0].id.as_i64() - 1
    }
}

/// Result of an attempt to become the applier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// This session may apply, from behind `head`, until another session acquires a newer epoch.
    Granted {
        /// The new epoch.
        epoch: u64,
        /// The zone's head; `None` while the chain is empty. It is on disk.
        head: Option<Head>,
    },
    /// Another session may, and lives.
    Held {
        /// Its epoch: name it as expired when its lease has run out.
        epoch: u64,
        /// Its node.
        applier: Option<String>,
    },
}

/// Why a batch was not, or may not have been, applied. Sorted by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Stop being the applier. Nothing was written: the zone has a newer epoch, or its frontier is
    /// not where this session believes.
    #[error(
        "nothing was written: the zone is at id {applied_id} under epoch {epoch}, not under ours; \
         this node must stop applying"
    )]
    Fenced {
        /// Newest epoch.
        epoch: u64,
        /// Where the frontier is.
        applied_id: u64,
    },
    /// The chain here is not the one that this session has applied: the frontier is at the id before
    /// the batch, in our epoch, and the link there has another digest. Nothing was written; find out
    /// where the chain was changed.
    #[error(
        "link {applied_id} of the zone's database is not the one that was applied; nothing was written: \
         the chain was changed behind this node's back"
    )]
    Forked {
        /// Where the frontier is.
        applied_id: u64,
    },
    /// The outcome is unknown, or the server cannot work at the moment (no space, shutting down,
    /// still a replica). Drop this session, connect with a back-off, acquire again and go on from
    /// the head that is answered: whatever was under way is in it wholly or not at all.
    #[error("the answer of PostgreSQL is missing; the frontier tells what was applied")]
    Lost(#[source] Option<tokio_postgres::Error>),
    /// As `Lost`; the server must be started again.
    #[error(transparent)]
    Replaced(#[from] Replaced),
    /// Halt the zone: the schema was changed by hand.
    #[error(transparent)]
    Column(#[from] WrongColumn),
    /// Halt the zone. PostgreSQL refuses a committed write or our schema, and would again; nothing
    /// was written. A person must find out why.
    #[error("PostgreSQL refuses a committed write with {sqlstate}: {message}; nothing was written")]
    Refused {
        /// Five characters of PostgreSQL's error code.
        sqlstate: String,
        /// The server's message and detail.
        message: String,
    },
}

impl ApplyError {
    fn sort(error: tokio_postgres::Error) -> Self {
        let error = match Replaced::of(error) {
            Ok(replaced) => return replaced.into(),
            Err(error) => error,
        };
        match error.as_db_error() {
            Some(db) if is_final(db.code()) => Self::Refused {
                sqlstate: db.code().code().to_owned(),
                message: match db.detail() {
                    Some(detail) => format!("{} ({detail})", db.message()),
                    None => db.message().to_owned(),
                },
            },
            _ => Self::Lost(Some(error)),
        }
    }
}

/// Whether PostgreSQL would refuse the same statement for ever: our data (classes 22 and 23) or our
/// schema (PH) says so, or the server's files are damaged. Everything else may pass, by itself or with
/// an operator's help: a missing right, a missing table, a foreign trigger, a full notification queue.
/// The next session looks at the schema first and says what is wrong with it.
fn is_final(code: &SqlState) -> bool {
    matches!(code.code().get(..2), Some("22" | "23" | "PH"))
        || [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code)
}

/// A session that may become, and be, the applier. It must be dropped after [`ApplyError::Lost`].
#[derive(Debug)]
pub struct Applier {
    client: Client,
    apply: Statement,
    acquire: Statement,
    renew: Statement,
    lease: Statement,
    commit: Commit,
    flushed: AtomicU64,
    /// Whether batches notify the listeners; see [`Applier::apply`].
    rings: AtomicBool,
}

impl Applier {
    /// Connects to a migrated database. Does not acquire anything yet.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(dsn: &Dsn, commit: Commit, tasks: &Tasks) -> Result<Self, ConnectError> {
        let client = dsn.connect(Role::Applier, "applier", tasks).await?;
        let prepare = async {
            let set = match commit {
                Commit::OnDisk => "set synchronous_commit = on",
                Commit::InMemory => "set synchronous_commit = off",
            };
            let (_, apply, acquire, renew, lease) = futures::try_join!(
                client.batch_execute(set),
                client.prepare(include_str!("../../sql/queries/apply.sql")),
                client.prepare(include_str!("../../sql/queries/acquire.sql")),
                client.prepare(include_str!("../../sql/queries/renew.sql")),
                client.prepare(include_str!("../../sql/queries/lease.sql")),
            )?;
            Ok((apply, acquire, renew, lease))
        };
        let (apply, acquire, renew, lease) = prepare.await.map_err(|error| dsn.failure(error))?;
        let (flushed, rings) = (AtomicU64::new(0), AtomicBool::new(true));
        Ok(Self { client, apply, acquire, renew, lease, commit, flushed, rings })
    }

    /// Tries to become the zone's applier under a new epoch: granted when no living session holds
    /// the newest one, or when `expired` names the newest one, because the caller has seen its
    /// lease stand still for too long (see [`super::read::Reader::lease`]), and the server's clock
    /// says so too. What the old applier has under way is then fenced off.
    ///
    /// # Errors
    /// [`ApplyError::Lost`] or [`ApplyError::Refused`]; drop the session after either.
    pub async fn acquire(
        &self,
        node: &NodeName,
        expired: Option<u64>,
    ) -> Result<Acquired, ApplyError> {
        if mutation::is_active(Mutant::ForeignLockObeyed) {
            let lock = "select pg_try_advisory_lock(1885825123, epoch::int) from pghc.frontier";
            if !get::<bool>(&answered(self.client.query_one(lock, &[])).await?, 0, "a lock")? {
                return Ok(Acquired::Held { epoch: 0, applier: None });
            }
        }
        let expired = expired.map(u64::cast_signed);
        let node = node.as_str();
        let parameters: [&(dyn ToSql + Sync); 2] = [&node, &expired];
        let asked = self.client.query_one(&self.acquire, &parameters);
        let row = answered(failpoint::within(Point::AcquireSent, asked)).await?;
        let epoch = unsigned(get(&row, 1, "pghc.frontier.epoch")?);
        if !get::<bool>(&row, 0, "granted of pghc.acquire")? {
            return Ok(Acquired::Held { epoch, applier: get(&row, 2, "pghc.frontier.applier")? });
        }
        failpoint::pass(Point::AcquireAnswered);
        let head = head_from(&row, 3)?;
        self.advance_flushed(head.map_or(0, |head| head.id.get()));
        Ok(Acquired::Granted { epoch, head })
    }

    /// Applies a batch under `epoch`: one statement, one round trip, one transaction, which also
    /// rings the bell on channel `pghc_frontier`.
    ///
    /// Calls may overlap: futures that are first polled in id order travel in that order, and each
    /// is its own transaction. When one fails, those behind it fail with [`ApplyError::Fenced`] or
    /// [`ApplyError::Lost`]; what counts is the first failure.
    ///
    /// The queue of notifications belongs to the whole server, and any login can fill it. Then this
    /// session applies without the bell; listeners look at the frontier from time to time anyway.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, epoch: u64, batch: &Batch) -> Result<(), ApplyError> {
        let rings = self.rings.load(Ordering::Relaxed);
        match self.send(epoch, batch, rings).await {
            Err(ApplyError::Lost(Some(error))) if rings && is_queue_full(&error) => {
                tracing::warn!(%error, "notifications lost, applying without them");
                self.rings.store(false, Ordering::Relaxed);
                self.send(epoch, batch, false).await
            }
            applied => applied,
        }
    }

    async fn send(&self, epoch: u64, batch: &Batch, ring: bool) -> Result<(), ApplyError> {
        let links = batch.links();
        let nodes: Vec<&str> = links.iter().map(|link| link.node.as_str()).collect();
        let hashes: Vec<Hex> = links.iter().map(|link| Hex(link.hash)).collect();
        let digests: Vec<Bytes32> = links.iter().map(|link| Bytes32(link.digest)).collect();
        let times: Vec<Timestamp> = links.iter().map(|link| Timestamp(link.written_at)).collect();
        let payloads: Vec<Option<JsonText<'_>>> =
            links.iter().map(|link| link.payload.as_deref().map(JsonText)).collect();
        let parameters: [&(dyn ToSql + Sync); 9] = [
            &epoch.cast_signed(),
            &batch.applied_before(),
            &batch.before().map(Bytes32),
            &nodes,
            &hashes,
            &digests,
            &times,
            &payloads,
            &ring,
        ];
        failpoint::pass(Point::ApplyBefore);
        let sent = self.client.query_one(&self.apply, &parameters);
        match answered(failpoint::within(Point::ApplySent, sent)).await {
            Ok(row) if get::<Option<i64>>(&row, 0, "answer of pghc.apply")?.is_some() => {
                failpoint::pass(Point::ApplyAnswered);
                if self.commit == Commit::OnDisk {
                    self.advance_flushed(batch.head().id.get());
                }
                Ok(())
            }
            Ok(_) => Err(self.fenced().await),
            Err(ApplyError::Refused { sqlstate, .. }) if sqlstate == CHAIN_FORKED => {
                Err(ApplyError::Forked { applied_id: unsigned(batch.applied_before()) })
            }
            Err(error) => Err(error),
        }
    }

    /// Renews the lease of `epoch`, and answers the newest id that a crash of this database cannot
    /// lose. The commit waits for the disk under either [`Commit`].
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn renew(&self, epoch: u64) -> Result<u64, ApplyError> {
        failpoint::pass(Point::RenewBefore);
        let epoch = epoch.cast_signed();
        let parameters: [&(dyn ToSql + Sync); 1] = [&epoch];
        let sent = self.client.query_opt(&self.renew, &parameters);
        let row = answered(failpoint::within(Point::RenewSent, sent)).await?;
        let Some(row) = row else { return Err(self.fenced().await) };
        failpoint::pass(Point::RenewAnswered);
        self.advance_flushed(unsigned(get(&row, 0, "pghc.frontier.applied_id")?));
        Ok(self.flushed())
    }

    /// The newest id known to survive a crash of this database: that of the last answered
    /// [`Applier::acquire`] or [`Applier::renew`], and under [`Commit::OnDisk`] of the last
    /// answered [`Applier::apply`].
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn advance_flushed(&self, id: u64) {
        self.flushed.fetch_max(id, Ordering::AcqRel);
    }

    /// Finds out what fenced this session off.
    async fn fenced(&self) -> ApplyError {
        match answered(self.client.query_one(&self.lease, &[])).await {
            Ok(row) => {
                let seen = get(&row, 0, "pghc.frontier.epoch")
                    .and_then(|epoch| Ok((epoch, get(&row, 1, "pghc.frontier.applied_id")?)));
                match seen {
                    Ok((epoch, applied_id)) => {
                        let (epoch, applied_id) = (unsigned(epoch), unsigned(applied_id));
                        ApplyError::Fenced { epoch, applied_id }
                    }
                    Err(wrong) => wrong.into(),
                }
            }
            Err(error) => error,
        }
    }
}

/// Whether the server has no room left for notifications.
fn is_queue_full(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::PROGRAM_LIMIT_EXCEEDED)
}

async fn answered<T>(
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ApplyError> {
    match tokio::time::timeout(ANSWER_MAX, query).await {
        Ok(result) => result.map_err(ApplyError::sort),
        Err(_) => Err(ApplyError::Lost(None)),
    }
}

/// A non-negative bigint. The schema's constraints make a negative one impossible.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// The head in columns `first` (applied id), then hash, digest and time; `None` for id 0.
pub(super) fn head_from(row: &Row, first: usize) -> Result<Option<Head>, WrongColumn> {
    let id = unsigned(get(row, first, "pghc.frontier.applied_id")?);
    let Ok(id) = WriteId::try_from(id) else { return Ok(None) };
    let Hex(hash) = get(row, first + 1, "pghc.frontier.hash")?;
    let Bytes32(digest) = get(row, first + 2, "pghc.frontier.digest")?;
    let Timestamp(written_at) = get(row, first + 3, "pghc.frontier.written_at")?;
    Ok(Some(Head { id, hash, digest, written_at }))
}
