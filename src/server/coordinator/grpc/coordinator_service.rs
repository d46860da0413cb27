//! gRPC service for API nodes, and for followers that forward to the leader.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::NOT_PROPOSED;
use pghc_runtime::rpc::v1::coordinator_server;
use pghc_runtime::rpc::v1::order_result::Kind;
use pghc_runtime::rpc::v1::{
    self, AwaitReply, AwaitRequest, Cluster, Member, ProposeReply, ProposeRequest, ReadIndexReply,
    ReadIndexRequest, SubmitReply, SubmitRequest, TailBatch, TailRequest, VouchReply, VouchRequest,
    Vouched, ZoneReport,
};
use pghc_runtime::task::fair_watch;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::coordinator::disk_reserve::DiskReserve;
use crate::coordinator::ordering::leader_client::{LeaderClient, Leadership};
use crate::coordinator::ordering::proposer::ProposeResult;
use crate::coordinator::ordering::read_index::ReadIndexBarrier;
use crate::coordinator::ordering::tail::Tails;
use crate::coordinator::placement::write_rates::WriteRates;
use crate::coordinator::replica::driver::SequencerDriver;
use crate::coordinator::replica::reply_cache::{BatchId, Lookup, OrderResults};
use crate::coordinator::zones::progress_view::ZoneProgressView;
use crate::coordinator::zones::registry::{Refusal, Zones};
use crate::sequencer::{BatchHeader, EntryError, OrderResult, ZoneChange};

/// Bytes of batches in flight through one coordinator; further batches wait.
const SUBMITS_BYTES_MAX: usize = 64 << 20;

/// Tails served at a time; each may have 1 MiB queued.
const TAILS_MAX: usize = 256;

/// Pause before another attempt while no leader accepts a batch; a leadership change ends it.
const NO_LEADER_PAUSE: Duration = Duration::from_millis(50);

/// Pause before a batch is resent whose attempt ended without a reply.
const RESEND_PAUSE: Duration = Duration::from_millis(20);

const HASH_BYTES: usize = size_of::<LinkHash>();
const DIGEST_BYTES: usize = size_of::<Digest>();

/// Most links of one `Vouch` call.
const VOUCHED_IDS_MAX: usize = 64;

/// Longest deadline of a call; API nodes ask for less.
const CALL_MAX: Duration = Duration::from_secs(60);

pub(crate) struct CoordinatorService {
    id: u64,
    leader_client: LeaderClient,
    read_index: ReadIndexBarrier,
    driver: Arc<SequencerDriver>,
    zones: Arc<Zones>,
    tails: Tails,
    disk_reserve: DiskReserve,
    zone_progress: ZoneProgressView,
    submits: Semaphore,
    tail_permits: Arc<Semaphore>,
    write_rates: WriteRates,
    /// Deadline of one attempt to reach the leader.
    attempt_max: Duration,
}

impl CoordinatorService {
    /// `attempt_max` is the deadline of one attempt to reach the leader.
    pub(crate) fn new(
        id: u64,
        (leader_client, read_index): (LeaderClient, ReadIndexBarrier),
        zone_progress: &ZoneProgressView,
        tails: Tails,
        disk_reserve: DiskReserve,
        write_rates: WriteRates,
        attempt_max: Duration,
    ) -> Self {
        Self {
            id,
            leader_client,
            read_index,
            driver: Arc::clone(&tails.driver),
            zones: Arc::clone(&zone_progress.zones),
            tails,
            disk_reserve,
            zone_progress: zone_progress.clone(),
            submits: Semaphore::new(SUBMITS_BYTES_MAX),
            tail_permits: Arc::new(Semaphore::new(TAILS_MAX)),
            write_rates,
            attempt_max,
        }
    }

    /// Orders a batch and waits until it is sequenced here.
    ///
    /// Resends are harmless: the sequencer recognises session and sequence number. At
    /// `give_up_at` an unproposed batch ends with `no leader`.
    async fn order(
        &self,
        name: BatchId,
        batch: Bytes,
        give_up_at: Instant,
    ) -> Result<OrderResults, Status> {
        let mut leadership = self.leader_client.leadership();
        let mut maybe_proposed = false;
        loop {
            leadership.borrow_and_update();
            let mut coming = match self.driver.lookup(name) {
                Lookup::Hit(outcomes) => return Ok(outcomes),
                Lookup::Pending(coming) => coming,
            };
            let attempt = self.attempt(batch.clone());
            let attempt = tokio::select! {
                biased;
                outcomes = &mut coming => return outcomes.map_err(|_| shutting_down()),
                attempt = attempt => attempt,
                _ = leadership.changed() => ProposeResult::Unknown,
            };
            maybe_proposed |= matches!(attempt, ProposeResult::Committed | ProposeResult::Unknown);
            let wait = match attempt {
                // Committed at the leader: the entry arrives with the next append.
                ProposeResult::Committed => self.attempt_max,
                ProposeResult::Unknown => RESEND_PAUSE,
                ProposeResult::NotProposed
                | ProposeResult::NoSpace
                | ProposeResult::NotReadable
                    if !maybe_proposed && Instant::now() >= give_up_at =>
                {
                    return Err(if attempt == ProposeResult::NoSpace {
                        no_space()
                    } else {
                        no_leader()
                    });
                }
                ProposeResult::NotProposed
                | ProposeResult::NoSpace
                | ProposeResult::NotReadable => {
                    let rest = give_up_at.saturating_duration_since(Instant::now());
                    let pause = if maybe_proposed { NO_LEADER_PAUSE } else { rest };
                    wait_for_leader(&mut leadership, pause.min(NO_LEADER_PAUSE)).await?;
                    continue;
                }
            };
            if let Ok(outcomes) = tokio::time::timeout(wait, coming).await {
                return outcomes.map_err(|_| shutting_down());
            }
        }
    }

    /// Makes one attempt to commit the batch; rejected here below the disk reserve.
    async fn attempt(&self, batch: Bytes) -> ProposeResult {
        let leads = self.leader_client.leadership().borrow().leader == Some(self.id);
        if leads && self.disk_reserve.is_below_reserve() {
            return ProposeResult::NoSpace;
        }
        self.leader_client.attempt(batch, self.attempt_max).await
    }

    /// Retries ReadIndex across a leadership change, within one attempt's time.
    async fn read_index(&self, forwarded: bool) -> Result<ReadIndexReply, Status> {
        let until = Instant::now() + self.attempt_max;
        let mut leadership = self.leader_client.leadership();
        loop {
            leadership.borrow_and_update();
            match self.confirm(forwarded).await {
                Err(_) if !forwarded && Instant::now() < until => {
                    wait_for_leader(&mut leadership, NO_LEADER_PAUSE).await?;
                }
                read_index => return read_index,
            }
        }
    }

    async fn confirm(&self, forwarded: bool) -> Result<ReadIndexReply, Status> {
        if !forwarded && let Some(mut leader) = self.leader_client.leader() {
            let mut request = Request::new(ReadIndexRequest { forwarded: true });
            request.set_timeout(self.attempt_max);
            return Ok(leader.read_index(request).await?.into_inner());
        }
        if mutation::is_active(Mutant::ReadUnconfirmed) {
            return Ok(read_index_reply(self.driver.head()));
        }
        self.read_index.wait().await?;
        Ok(read_index_reply(self.driver.head()))
    }

    /// Rejects a tail whose reader has a different chain: its zone is ahead of the log, or its link
    /// `after_id` differs. Unknown links pass, since the reader compares its first batch.
    async fn check_tail(&self, after_id: u64, after_digest: &[u8]) -> Result<(), Status> {
        if ![0, DIGEST_BYTES].contains(&after_digest.len()) {
            return Err(Status::invalid_argument("after_digest must have 0 or 32 bytes"));
        }
        if after_id > *self.driver.head_id().borrow() {
            // A zone applies committed entries only, so its links were committed before this call.
            let committed = self.read_index(false).await?.id;
            if after_id > committed {
                return Err(Status::data_loss(format!(
                    "the zone is ahead of the log: it has id {after_id}, and a majority of the \
                     coordinators has confirmed that nothing above id {committed} is committed"
                )));
            }
        }
        let is_empty = after_id == 0 || after_digest.is_empty();
        if is_empty || self.tails.matches_chain(after_id, after_digest).await? {
            return Ok(());
        }
        Err(Status::data_loss(format!(
            "the zone has another chain from at or before id {after_id}: its link is not the one \
             that the coordinators have under this id"
        )))
    }

    /// Returns the digests of the requested links and the newest id; see `Vouch` in the contract.
    async fn vouch(&self, request: VouchRequest) -> Result<VouchReply, Status> {
        let VouchRequest { ids, confirmed } = request;
        if ids.len() > VOUCHED_IDS_MAX {
            let words = format!("{} ids are more than {VOUCHED_IDS_MAX}", ids.len());
            return Err(Status::invalid_argument(words));
        }
        if confirmed {
            self.check_own_chain().await?;
        }
        let mut links = Vec::with_capacity(ids.len());
        for id in ids {
            let known = self.tails.vouch(id).await?;
            links.push(known.map_or_else(Vouched::default, |(id, digest)| Vouched {
                id,
                digest: digest.0.to_vec().into(),
            }));
        }
        Ok(VouchReply { links, head: *self.driver.head_id().borrow() })
    }

    /// Waits for a ReadIndex and compares its head with the own link of that id. A digest covers
    /// every earlier link.
    async fn check_own_chain(&self) -> Result<(), Status> {
        let ReadIndexReply { id, digest, .. } = self.read_index(false).await?;
        let mut head_id = self.driver.head_id();
        let reached = async { head_id.wait_for(|head| *head >= id).await.map(drop) };
        let late = || Status::unavailable(format!("link {id} was not sequenced here in time"));
        let reached = tokio::time::timeout(self.attempt_max, reached).await;
        reached.map_err(|_| late())?.map_err(|_| shutting_down())?;
        if id == 0 || self.tails.matches_chain(id, &digest).await? {
            return Ok(());
        }
        Err(Status::internal(format!(
            "this coordinator's link {id} differs from the leader's; replace this coordinator"
        )))
    }

    fn cluster(&self) -> Cluster {
        let leadership = *self.leader_client.leadership().borrow();
        let (_, membership) = self.driver.applied();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, member)| Member {
            coordinator_id: *id,
            zone: member.zone.clone(),
            voter: voters.contains(id),
            url: member.url.clone(),
        });
        let feed = self.zone_progress.feed();
        let is_new = self.zones.registry().borrow().is_empty();
        Cluster {
            coordinator_id: self.id,
            leader: leadership.leader.unwrap_or_default(),
            term: leadership.term,
            head: *self.driver.head_id().borrow(),
            members: members.collect(),
            zones: self
                .zone_progress
                .views(feed)
                .into_iter()
                .filter(|it| it.registered || is_new)
                .collect(),
            log_first_id: feed.first_id,
            disk_short: self.disk_reserve.is_below_reserve(),
            has_waiters: self.zones.have_waiters(),
        }
    }
}

/// Removes a waiter when its call ends, cancelled or not.
struct WaiterGuard<'a> {
    driver: &'a SequencerDriver,
    name: BatchId,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.driver.abandon(&self.name);
    }
}

/// Waits up to `pause` for a leadership change.
async fn wait_for_leader(
    leadership: &mut fair_watch::Receiver<Leadership>,
    pause: Duration,
) -> Result<(), Status> {
    match tokio::time::timeout(pause, leadership.changed()).await {
        Ok(Err(_)) => Err(shutting_down()),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// Status of a call of which nothing was proposed; the caller may retry.
fn no_leader() -> Status {
    let mut status = Status::unavailable("no coordinator leads");
    status.metadata_mut().insert(NOT_PROPOSED, MetadataValue::from_static("1"));
    status
}

/// Same as [`no_leader`], for a leader below its disk reserve.
fn no_space() -> Status {
    let mut status =
        Status::resource_exhausted("the disk of the coordinator that leads is nearly full");
    status.metadata_mut().insert(NOT_PROPOSED, MetadataValue::from_static("1"));
    status
}

fn shutting_down() -> Status {
    Status::unavailable("the coordinator is shutting down")
}

fn read_index_reply(head: Option<Head>) -> ReadIndexReply {
    head.map_or_else(ReadIndexReply::default, |head| ReadIndexReply {
        id: head.id.get(),
        hash: head.hash.0.to_vec().into(),
        digest: head.digest.0.to_vec().into(),
        written_at: head.written_at.0,
    })
}

/// Converts the outcomes to messages. The chain values share one allocation.
fn replies(outcomes: &[OrderResult]) -> Vec<v1::OrderResult> {
    let without_link = |kind: Kind, id: u64| v1::OrderResult {
        kind: kind.into(),
        id,
        ..v1::OrderResult::default()
    };
    let mut values = BytesMut::with_capacity(outcomes.len() * (HASH_BYTES + DIGEST_BYTES));
    let reply = |outcome: &OrderResult| match outcome {
        OrderResult::Ordered(head) => {
            values.put_slice(&head.hash.0);
            values.put_slice(&head.digest.0);
            v1::OrderResult {
                written_at: head.written_at.0,
                ..without_link(Kind::Ordered, head.id.get())
            }
        }
        OrderResult::Repeated(id) => without_link(Kind::Repeated, id.get()),
        OrderResult::KeyReused(id) => without_link(Kind::KeyReused, id.get()),
    };
    let mut replies: Vec<v1::OrderResult> = outcomes.iter().map(reply).collect();
    let mut values = values.freeze();
    for reply in replies.iter_mut().filter(|reply| reply.kind() == Kind::Ordered) {
        reply.hash = values.split_to(HASH_BYTES);
        reply.digest = values.split_to(DIGEST_BYTES);
    }
    replies
}

#[tonic::async_trait]
impl coordinator_server::Coordinator for CoordinatorService {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitReply>, Status> {
        let SubmitRequest { batch: bytes, max_wait_ms, zone } = request.into_inner();
        let taken = Instant::now();
        // A quarter of the time is left for the reply's way back.
        let max_wait = Duration::from_millis(u64::from(max_wait_ms) * 3 / 4);
        let give_up_at = Instant::now() + max_wait.min(self.attempt_max);
        let header = BatchHeader::read(&bytes)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let name = (header.session, header.sequence);
        // A batch without payloads takes 1 KiB of the budget.
        let weight = u32::try_from(bytes.len().max(1 << 10)).unwrap_or(u32::MAX);
        let _place = self.submits.acquire_many(weight).await.map_err(|_| shutting_down())?;
        let _waiting = WaiterGuard { driver: &self.driver, name };
        let ordered = tokio::time::timeout(CALL_MAX, self.order(name, bytes, give_up_at)).await;
        let outcomes = ordered.map_err(|_| {
            Status::deadline_exceeded("the batch was not ordered in time; resend it")
        })??;
        self.write_rates.record(&zone, header.count, taken.elapsed(), Instant::now());
        if outcomes.len() != header.count {
            return Err(Status::aborted(
                "the batch is older than what its session remembers; its outcome is unknown",
            ));
        }
        Ok(Response::new(SubmitReply { outcomes: replies(&outcomes) }))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        let ProposeRequest { batch, zone_change } = request.into_inner();
        let malformed = |error: EntryError| Status::invalid_argument(error.to_string());
        let leader = self.leader_client.leadership().borrow().leader.unwrap_or_default();
        let reply = |attempt| {
            let (accepted, no_space) =
                (attempt == ProposeResult::Committed, attempt == ProposeResult::NoSpace);
            let not_readable = attempt == ProposeResult::NotReadable;
            Ok(Response::new(ProposeReply { accepted, leader, no_space, not_readable }))
        };
        if self.disk_reserve.is_below_reserve() && leader == self.id {
            return reply(ProposeResult::NoSpace);
        }
        let attempt = if zone_change.is_empty() {
            BatchHeader::read(&batch).map_err(malformed)?;
            self.leader_client.propose(batch).await
        } else {
            let change = ZoneChange::decode(zone_change).map_err(malformed)?;
            self.leader_client.propose_zone_change(&change).await
        };
        match attempt {
            ProposeResult::Unknown => Err(Status::unknown("leadership was lost while committing")),
            attempt => reply(attempt),
        }
    }

    type TailStream = BoxStream<'static, Result<TailBatch, Status>>;

    async fn tail(
        &self,
        request: Request<TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let TailRequest { after_id, zone, node, after_digest } = request.into_inner();
        if let Err(status) = self.check_tail(after_id, &after_digest).await {
            tracing::warn!(zone, node, after_id, %status, "tail refused");
            return Err(status);
        }
        let Ok(permit) = Arc::clone(&self.tail_permits).try_acquire_owned() else {
            tracing::warn!(zone, node, tails = TAILS_MAX, "tail refused, limit reached");
            return Err(Status::unavailable(
                "this coordinator serves its maximum number of tails; use another one",
            ));
        };
        tracing::info!(zone, node, after_id, "tail opened");
        let batches = self.tails.open(after_id).inspect(move |_| {
            let _ = &permit;
        });
        Ok(Response::new(batches.boxed()))
    }

    async fn report(&self, request: Request<ZoneReport>) -> Result<Response<Cluster>, Status> {
        let report = self.zones.report(request.into_inner(), Instant::now());
        report.map_err(|refusal| match refusal {
            Refusal::Name(_) => Status::invalid_argument(refusal.to_string()),
            Refusal::Removed(_) | Refusal::Unknown(_) => {
                Status::failed_precondition(refusal.to_string())
            }
            Refusal::NameTaken(_) => Status::already_exists(refusal.to_string()),
            Refusal::Full(_) => Status::resource_exhausted(refusal.to_string()),
        })?;
        Ok(Response::new(self.cluster()))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        Ok(Response::new(self.read_index(request.into_inner().forwarded).await?))
    }

    async fn vouch(&self, request: Request<VouchRequest>) -> Result<Response<VouchReply>, Status> {
        Ok(Response::new(self.vouch(request.into_inner()).await?))
    }

    async fn await_everywhere(
        &self,
        request: Request<AwaitRequest>,
    ) -> Result<Response<AwaitReply>, Status> {
        let id = request.into_inner().id;
        let mut changes = self.zones.changes();
        let until = Instant::now() + CALL_MAX;
        loop {
            changes.borrow_and_update();
            let waiting_for = self.zones.behind(id, self.zone_progress.feed(), Instant::now());
            if waiting_for.is_empty() || Instant::now() >= until {
                let everywhere = waiting_for.is_empty();
                return Ok(Response::new(AwaitReply { everywhere, waiting_for }));
            }
            // A zone's silence causes no change, so the views are polled once a second.
            let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
        }
    }
}
