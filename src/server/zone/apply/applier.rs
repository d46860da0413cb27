//! The zone's applier: takes the right to apply, follows the tail, applies in id order.
//!
//! Every node of a zone runs one; the database grants one of them an epoch. The others
//! stand by and follow the frontier by notification. A crash at any point leaves rows and frontier
//! together, so the next applier continues from the frontier.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, OptionFuture};
use pghc_api::chain::{Digest, Head, Link};
use pghc_api::limits::{APPLY_BYTES_MAX, APPLY_LINKS_MAX};
use pghc_postgres::{Acquired, ApplyError, Batch, CHAIN_DAMAGED, Lease, MigrateError};
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::{Metrics, describe};
use tokio::time::Instant;

use super::backfill::Backfill;
use super::halt::Halt;
use super::plan::{PlanError, plan};
use super::tail::{Tail, TailContext};
use super::tail_event::TailEvent;
use crate::zone::Identity;
use crate::zone::audit::background::Auditor;
use crate::zone::audit::witness::Witness;
use crate::zone::database::{Database, Session};
use crate::zone::node_state::NodeState;

/// How often a standby tries to become the applier.
const STANDBY_PERIOD: Duration = Duration::from_millis(250);

/// How often the applier renews its lease.
const RENEW_PERIOD: Duration = Duration::from_secs(1);

/// Time without renewal after which an applier is replaced, even if its session lives.
const LEASE_MAX: Duration = Duration::from_secs(4);

/// Time after which an unanswered transaction or renewal is reported.
const STALL_AFTER: Duration = Duration::from_secs(2);

/// Pause before the database is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Links planned ahead of the transaction under way, and their payload bytes.
const PLANNED_LINKS_MAX: usize = 2 * APPLY_LINKS_MAX;
const PLANNED_BYTES_MAX: usize = 2 * APPLY_BYTES_MAX;

/// The dependencies of a node's applier.
pub(crate) struct ApplierTask {
    pub(crate) identity: Identity,
    pub(crate) database: Arc<dyn Database>,
    pub(crate) witness: Witness,
    pub(crate) node_state: Arc<NodeState>,
    pub(crate) auditor: Option<Auditor>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: Tasks,
}

/// Why a session ended.
enum ApplyEnd {
    /// The database must be reached anew.
    Lost(String),
    /// The database is not fit for its zone.
    Unfit(String),
    /// Another node applies now.
    Replaced,
    /// The chain here is not the one that was ordered.
    Refused(String),
    /// Something is wrong that going on would make worse; a person must act.
    Halt(String),
}

impl From<ApplyError> for ApplyEnd {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Fenced { .. } => Self::Replaced,
            ApplyError::Forked { .. } => Self::Refused(describe(&error)),
            ApplyError::Lost(_) | ApplyError::Replaced(_) => Self::Lost(describe(&error)),
            ApplyError::Refused { ref sqlstate, .. } if sqlstate == CHAIN_DAMAGED => {
                Self::Refused(describe(&error))
            }
            ApplyError::Refused { .. } | ApplyError::Column(_) => Self::Halt(describe(&error)),
        }
    }
}

impl ApplierTask {
    /// Runs until it is dropped. A zone that halts goes on when its database was replaced.
    pub(crate) async fn run(self) {
        let mut migrated = false;
        // Whether this database was fit before: an unfit one is then being restored.
        let mut was_fit = false;
        loop {
            let ended = if migrated {
                self.session().await
            } else {
                match self.migrate().await {
                    Ok(()) => {
                        (migrated, was_fit) = (true, true);
                        continue;
                    }
                    Err(ApplyEnd::Unfit(why)) if was_fit => ApplyEnd::Lost(why),
                    Err(ApplyEnd::Unfit(why)) => ApplyEnd::Halt(why),
                    Err(ended) => ended,
                }
            };
            self.node_state.set_applier(false);
            self.node_state.feed_fails(None);
            self.metrics.zone.is_applier.set(0);
            match ended {
                ApplyEnd::Lost(why) => {
                    self.node_state.database_fails(&why);
                    // Whatever answers next may be another database: a restored one, an empty one.
                    migrated = false;
                    tokio::time::sleep(RETRY).await;
                }
                ApplyEnd::Replaced => tracing::warn!("applier replaced by another node"),
                ApplyEnd::Refused(why) => {
                    self.halt(why, true).await;
                    migrated = false;
                }
                ApplyEnd::Halt(why) | ApplyEnd::Unfit(why) => {
                    self.halt(why, false).await;
                    migrated = false;
                }
            }
        }
    }

    async fn halt(&self, why: String, is_chain: bool) {
        let (node_state, auditor) = (&self.node_state, self.auditor.as_ref());
        Halt { node_state, auditor }.run(why, is_chain).await;
    }

    async fn migrate(&self) -> Result<(), ApplyEnd> {
        match self.database.migrate(&self.identity).await {
            Ok(findings) => {
                for finding in findings {
                    tracing::warn!(%finding, "database preflight warning");
                }
                Ok(())
            }
            Err(error @ (MigrateError::Foreign { .. } | MigrateError::History(_))) => {
                Err(ApplyEnd::Halt(describe(&error)))
            }
            Err(error @ MigrateError::Refused { .. }) => Err(ApplyEnd::Unfit(describe(&error))),
            Err(MigrateError::Unfit(findings)) => {
                let is_known = self.node_state.is_unfit(&findings);
                for finding in findings.iter().filter(|_| !is_known) {
                    tracing::error!(%finding, "zone database found unfit");
                }
                Err(ApplyEnd::Unfit(describe(&MigrateError::Unfit(findings))))
            }
            Err(error) => Err(ApplyEnd::Lost(describe(&error))),
        }
    }

    /// One connection: stands by until granted, then leads.
    async fn session(&self) -> ApplyEnd {
        let session = match self.database.connect().await {
            Ok(session) => session,
            Err(error) => return ApplyEnd::Lost(describe(&error)),
        };
        let (epoch, head) = match self.stand_by(session.as_ref()).await {
            Ok(granted) => granted,
            Err(ended) => return ended,
        };
        self.lead(session, epoch, head).await
    }

    /// Follows the frontier until this node may apply.
    async fn stand_by(&self, session: &dyn Session) -> Result<(u64, Option<Head>), ApplyEnd> {
        let mut expired = None;
        let mut watch = LeaseWatch::default();
        let mut follow: Option<BoxFuture<'_, ApplyEnd>> = None;
        loop {
            match session.acquire(&self.identity.node, expired.take()).await? {
                Acquired::Granted { epoch, head } => return Ok((epoch, head)),
                Acquired::Held { epoch, applier } => {
                    if follow.is_none() {
                        tracing::info!(epoch, applier, "standing by");
                        self.metrics.zone.epoch.set(epoch);
                    }
                }
            }
            let follow = follow.get_or_insert_with(|| Box::pin(self.follow_frontier()));
            tokio::select! {
                biased;
                why = self.node_state.fenced() => return Err(ApplyEnd::Halt(why)),
                ended = follow => return Err(ended),
                () = tokio::time::sleep(STANDBY_PERIOD) => {}
            }
            let lease = self.database.lease().await.map_err(|e| ApplyEnd::Lost(describe(&e)))?;
            expired = watch.expired(lease, Instant::now());
            self.node_state.apply_stalls(expired.map(|epoch| {
                format!("the applier of epoch {epoch} is silent; another node takes over")
            }));
        }
    }

    /// Passes the database's notifications on to the frontier; ends with the connection.
    async fn follow_frontier(&self) -> ApplyEnd {
        let mut listener = match self.database.listen().await {
            Ok(listener) => listener,
            Err(error) => return ApplyEnd::Lost(describe(&error)),
        };
        while let Some(heard) = listener.next().await {
            match heard {
                Ok(id) => {
                    self.node_state.frontier.set(id);
                    self.metrics.zone.frontier_id.set(id);
                    self.node_state.database_is_well();
                }
                Err(error) => return ApplyEnd::Lost(describe(&error)),
            }
        }
        ApplyEnd::Lost("the listening session ended".to_owned())
    }

    /// Applies until the right or the database is lost.
    async fn lead(&self, session: Arc<dyn Session>, epoch: u64, head: Option<Head>) -> ApplyEnd {
        if let Some(auditor) = &self.auditor {
            // A fence of an earlier turn may have been dealt with; if not, its evidence is kept.
            self.node_state.unfence();
            match auditor.evidence().await {
                Ok(None) => {}
                Ok(Some(evidence)) => return ApplyEnd::Halt(evidence.to_string()),
                Err(error) => return ApplyEnd::Lost(describe(&error)),
            }
        }
        self.node_state.takes_over(head.map(|head| (head.id.get(), head.digest)));
        self.begin(session.flushed(), epoch, head.map_or(0, |head| head.id.get()));
        let mut queue = Queue::new(self.tail(head), head);
        let mut fenced = std::pin::pin!(self.node_state.fenced());
        let mut under_way: Option<BoxFuture<'_, _>> = None;
        let mut renewing: Option<BoxFuture<'_, _>> = None;
        let mut renew = tokio::time::interval(RENEW_PERIOD);
        let mut since = Instant::now();
        loop {
            if under_way.is_none()
                && let Some(batch) = queue.next_batch()
            {
                self.sends(&queue, batch.head());
                under_way = Some(apply(Arc::clone(&session), epoch, batch));
                since = Instant::now();
            }
            tokio::select! {
                biased;
                why = &mut fenced => return ApplyEnd::Halt(why),
                Some(done) = OptionFuture::from(under_way.as_mut()) => {
                    under_way = None;
                    match done {
                        Ok(done) => self.applied(session.as_ref(), &done),
                        Err(error) => return error.into(),
                    }
                    self.node_state.apply_stalls(None);
                }
                Some(renewed) = OptionFuture::from(renewing.as_mut()) => {
                    renewing = None;
                    match renewed {
                        Ok(flushed) => self.node_state.set_flushed(flushed),
                        Err(error) => return ApplyError::into(error),
                    }
                    if under_way.is_none() {
                        self.node_state.apply_stalls(None);
                    }
                }
                _ = renew.tick() => {
                    if renewing.is_none() {
                        let session = Arc::clone(&session);
                        if under_way.is_none() {
                            since = Instant::now();
                        }
                        renewing = Some(Box::pin(async move { session.renew(epoch).await }));
                    } else if since.elapsed() >= STALL_AFTER {
                        self.node_state.apply_stalls(Some(format!(
                            "PostgreSQL has not answered a transaction for {} s; the write stays \
                             ordered and is applied once, whatever becomes of it",
                            since.elapsed().as_secs()
                        )));
                    }
                }
                fed = queue.tail.next(), if queue.has_room() => {
                    if let Err(ended) = self.take(&mut queue, fed) {
                        return ended;
                    }
                }
            }
        }
    }

    /// Remembers the newest link of a batch before it is sent: a look at the database may find the batch before
    /// its answer is here.
    fn sends(&self, queue: &Queue, head: Head) {
        if head.id.get() <= queue.vouched_to {
            self.node_state.know((head.id.get(), head.digest));
        }
    }

    fn begin(&self, flushed: u64, epoch: u64, applied: u64) {
        tracing::info!(epoch, applied, "applying for this zone");
        self.node_state.frontier.set(applied);
        self.node_state.set_flushed(flushed);
        self.node_state.set_applier(true);
        self.node_state.database_is_well();
        self.node_state.feed_fails(None);
        self.node_state.apply_stalls(None);
        self.metrics.zone.epoch.set(epoch);
        self.metrics.zone.is_applier.set(1);
        self.metrics.zone.frontier_id.set(applied);
    }

    fn tail(&self, head: Option<Head>) -> Tail {
        let backfill = Backfill::new(
            self.witness.clone(),
            Arc::clone(&self.database),
            Arc::clone(&self.node_state),
        );
        let feed = TailContext {
            coordinators: self.witness.coordinators.clone(),
            node_state: Arc::clone(&self.node_state),
            identity: self.identity.clone(),
            backfill,
        };
        let (tail, work) = Tail::open(feed, head);
        self.tasks.spawn("zone tail", work);
        tail
    }

    /// Plans what the tail fed, and what is already here behind it.
    fn take(&self, queue: &mut Queue, fed: Option<TailEvent>) -> Result<(), ApplyEnd> {
        let mut next = Some(fed.ok_or_else(|| ApplyEnd::Lost("the tail ended".to_owned()))?);
        while let Some(fed) = next {
            let mut is_vouched = true;
            let planned = match fed {
                TailEvent::Batch(batch) => plan(&self.identity.cluster, queue.head, batch),
                TailEvent::Links { links, is_vouched: vouched } => {
                    is_vouched = vouched;
                    Ok(links)
                }
                TailEvent::Refused(why) => return Err(ApplyEnd::Refused(why)),
            };
            match planned {
                Ok(links) => {
                    failpoint::pass(Point::Planned);
                    queue.push(links, is_vouched);
                }
                Err(error @ PlanError::Gap { .. }) => {
                    tracing::warn!(%error, "tail reopened");
                    queue.tail = self.tail(queue.head);
                    return Ok(());
                }
                Err(error @ PlanError::Diverged { .. }) => {
                    return Err(ApplyEnd::Refused(describe(&error)));
                }
                Err(error) => return Err(ApplyEnd::Halt(describe(&error))),
            }
            next = if queue.has_room() { queue.tail.ready() } else { None };
        }
        Ok(())
    }

    fn applied(&self, session: &dyn Session, done: &Applied) {
        let last = done.last_id;
        self.node_state.frontier.set(last);
        failpoint::pass(Point::FrontierMoved);
        self.node_state.set_flushed(session.flushed());
        let metrics = &self.metrics.zone;
        metrics.frontier_id.set(last);
        #[expect(clippy::cast_precision_loss, reason = "at most 1000 links")]
        metrics.apply_batch_links.observe(done.links as f64);
        metrics.apply_batch_seconds.observe(done.took.as_secs_f64());
    }
}

/// A transaction that was committed.
struct Applied {
    last_id: u64,
    links: usize,
    took: Duration,
}

/// One transaction; boxed so that it can be under way while the next is planned.
fn apply(
    session: Arc<dyn Session>,
    epoch: u64,
    batch: Batch,
) -> BoxFuture<'static, Result<Applied, ApplyError>> {
    Box::pin(async move {
        let started = Instant::now();
        match session.apply(epoch, &batch).await {
            Err(ApplyError::Lost(_)) if mutation::is_active(Mutant::BlindCommit) => {}
            applied => applied?,
        }
        let (last_id, links) = (batch.head().id.get(), batch.links().len());
        Ok(Applied { last_id, links, took: started.elapsed() })
    })
}

/// Links planned and not yet under way.
struct Queue {
    tail: Tail,
    /// The newest planned link.
    head: Option<Head>,
    /// The newest link that is known to be what was ordered, and with it all before.
    vouched_to: u64,
    /// Digest of the newest link that is applied or under way.
    taken: Option<Digest>,
    links: VecDeque<Link>,
    /// Payload bytes of the links.
    bytes: usize,
}

fn payload_bytes(link: &Link) -> usize {
    link.payload.as_ref().map_or(0, |payload| payload.len())
}

impl Queue {
    fn new(tail: Tail, head: Option<Head>) -> Self {
        let taken = head.map(|head| head.digest);
        Self { tail, head, vouched_to: 0, taken, links: VecDeque::new(), bytes: 0 }
    }

    fn has_room(&self) -> bool {
        self.links.len() < PLANNED_LINKS_MAX && self.bytes < PLANNED_BYTES_MAX
    }

    fn push(&mut self, links: Vec<Link>, is_vouched: bool) {
        if let Some(last) = links.last() {
            if is_vouched {
                self.vouched_to = last.id.get();
            }
            let Link { id, hash, digest, written_at, .. } = *last;
            self.head = Some(Head { id, hash, digest, written_at });
        }
        self.bytes += links.iter().map(payload_bytes).sum::<usize>();
        self.links.extend(links);
    }

    /// Takes the links that fit into one transaction: at least one, if there is any.
    fn next_batch(&mut self) -> Option<Batch> {
        let (mut count, mut bytes) = (0, 0);
        for link in self.links.iter().take(APPLY_LINKS_MAX) {
            let next = payload_bytes(link);
            if count > 0 && bytes + next > APPLY_BYTES_MAX {
                break;
            }
            bytes += next;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.bytes -= bytes;
        let batch = Batch::new(self.taken, self.links.drain(..count).collect());
        self.taken = Some(batch.head().digest);
        Some(batch)
    }
}

/// Tells when an applier's lease has stood still for too long, by this node's own clock.
#[derive(Default)]
struct LeaseWatch {
    seen: Option<(Lease, Instant)>,
}

impl LeaseWatch {
    /// The epoch that has expired, if it has.
    fn expired(&mut self, lease: Lease, now: Instant) -> Option<u64> {
        match &self.seen {
            Some((seen, since)) if *seen == lease => {
                (now - *since >= LEASE_MAX).then_some(lease.epoch)
            }
            _ => {
                self.seen = Some((lease, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{LEASE_MAX, Lease, LeaseWatch};

    #[test]
    fn a_lease_expires_only_after_standing_still() {
        let lease = |applied_id| Lease { epoch: 3, applied_id, applier: None, renewed_at: 0 };
        let (mut watch, start) = (LeaseWatch::default(), Instant::now());
        assert_eq!(watch.expired(lease(1), start), None);
        assert_eq!(watch.expired(lease(1), start + LEASE_MAX / 2), None);
        assert_eq!(watch.expired(lease(2), start + LEASE_MAX), None);
        assert_eq!(watch.expired(lease(2), start + LEASE_MAX * 2), Some(3));
    }
}
