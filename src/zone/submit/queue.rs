//! From a client's write to its id: queue, batch, send to a coordinator, send again until answered.
//!
//! A batch keeps its session and sequence number however often it is sent and to whomever, so the
//! sequencer orders it once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_api::id::{NodeName, WriteId, ZoneName};
use pghc_api::limits::{
    BATCH_BYTES_MAX, BATCH_WRITES_MAX, SUBMIT_QUEUE_BYTES_MAX, SUBMIT_QUEUE_MAX,
};
use pghc_api::time::Micros;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::batcher::{Weigh, Window, next_batch};
use crate::linger::AdaptiveLinger;
use crate::rpc::v1::order_result::Kind;
use crate::rpc::v1::{OrderResult, SubmitReply, SubmitRequest};
use crate::rpc::{NOT_TAKEN, never_sent};
use crate::sabotage::{self, Bug};
use crate::sequencer::{Batch, SessionId, Write};
use crate::task::{Tasks, until};
use crate::telemetry::Metrics;
use crate::zone::coordinators::Coordinators;
use crate::zone::{NewWrite, Outcome, SubmitError};

/// Pause before a batch is sent again.
pub(crate) const RETRY: Duration = Duration::from_millis(20);

/// Longest that writes are kept for others to come along.
const LINGER_MAX: Duration = Duration::from_millis(15);

/// With less time left than this no further attempt is begun: it would hardly end before the
/// deadline, and nobody could say then that nothing was handed over.
const ATTEMPT_MIN: Duration = Duration::from_millis(50);

/// Writes of one request that stay together in one batch.
struct Group {
    writes: Vec<Write>,
    bytes: usize,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<Outcome>, SubmitError>>,
    /// Given back when the group is answered or dropped, however long its client waited.
    _place: Place,
}

impl Weigh for Group {
    fn writes(&self) -> usize {
        self.writes.len()
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The node's way to the log. Clones are the same queue.
#[derive(Clone)]
pub(crate) struct Submitter {
    queue: mpsc::Sender<Group>,
    metrics: Arc<Metrics>,
}

impl Submitter {
    /// Starts the node's session.
    pub(crate) fn start(
        session: SessionId,
        (zone, node): (ZoneName, NodeName),
        coordinators: Coordinators,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> Self {
        let (queue, groups) = mpsc::channel(SUBMIT_QUEUE_MAX);
        let sender = Sender {
            session,
            zone,
            node,
            coordinators,
            metrics: Arc::clone(&metrics),
            sequence: 0,
            window: Window::default(),
            linger: AdaptiveLinger::new(LINGER_MAX),
        };
        tasks.spawn("submit", sender.run(groups));
        Self { queue, metrics }
    }

    /// Has `writes` ordered; see [`crate::zone::Service::submit`].
    pub(crate) async fn submit(
        &self,
        writes: Vec<NewWrite>,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, SubmitError> {
        // Room for all of them or for none: a full queue refuses the request as a whole.
        let place = |writes: Vec<Write>| {
            let bytes = writes.iter().map(weight).sum();
            Ok((Place::take(&self.metrics, writes.len(), bytes)?, writes, bytes))
        };
        let groups: Vec<_> = groups(writes).into_iter().map(place).collect::<Result<_, _>>()?;
        let slots = self.queue.try_reserve_many(groups.len()).map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(()) => SubmitError::Draining,
        })?;
        let mut waits = Vec::with_capacity(groups.len());
        for (slot, (place, writes, bytes)) in slots.zip(groups) {
            let (answer, wait) = oneshot::channel();
            slot.send(Group { writes, bytes, deadline, answer, _place: place });
            waits.push(wait);
        }
        let mut answers = Vec::with_capacity(waits.len());
        for wait in waits {
            let answer = timeout_at(deadline, wait).await.ok().and_then(Result::ok);
            answers.push(answer.unwrap_or(Err(SubmitError::Unknown)));
        }
        together(answers)
    }
}

/// The answer to a request whose groups were answered so. That nothing was written may be said only
/// if it holds for every group.
fn together(answers: Vec<Result<Vec<Outcome>, SubmitError>>) -> Result<Vec<Outcome>, SubmitError> {
    let same_refusal = answers.windows(2).all(|pair| pair[0].is_err() && pair[0] == pair[1]);
    let mut outcomes = Vec::new();
    for answer in answers {
        match answer {
            Ok(mut some) => outcomes.append(&mut some),
            Err(error) if same_refusal => return Err(error),
            Err(_) => return Err(SubmitError::Unknown),
        }
    }
    Ok(outcomes)
}

/// A group's share of what waits or is in flight, given back with it. The gauges
/// themselves keep the count.
struct Place {
    metrics: Arc<Metrics>,
    writes: u64,
    bytes: u64,
}

impl Place {
    fn take(metrics: &Arc<Metrics>, writes: usize, bytes: usize) -> Result<Self, SubmitError> {
        let (writes, bytes) = (writes as u64, bytes as u64);
        let place = Self { metrics: Arc::clone(metrics), writes, bytes };
        let queued = metrics.submit.queue_writes.inc_by(place.writes) + place.writes;
        let queued_bytes = metrics.submit.queue_bytes.inc_by(place.bytes) + place.bytes;
        let is_full =
            queued > SUBMIT_QUEUE_MAX as u64 || queued_bytes > SUBMIT_QUEUE_BYTES_MAX as u64;
        if is_full { Err(SubmitError::Overloaded) } else { Ok(place) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.submit.queue_writes.dec_by(self.writes);
        self.metrics.submit.queue_bytes.dec_by(self.bytes);
    }
}

fn weight(write: &Write) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    length(&write.key) + length(&write.payload)
}

/// Splits a request's writes into groups that fit a batch each.
fn groups(writes: Vec<NewWrite>) -> Vec<Vec<Write>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for write in writes {
        let key = write.key.map(|key| Bytes::copy_from_slice(key.as_str().as_bytes()));
        let write = Write { key, payload: write.payload };
        bytes += weight(&write);
        let full = group.len() == BATCH_WRITES_MAX || bytes > BATCH_BYTES_MAX;
        if full && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            bytes = weight(&write);
        }
        group.push(write);
    }
    groups.push(group);
    groups.retain(|group| !group.is_empty());
    groups
}

/// The task behind the queue.
struct Sender {
    session: SessionId,
    zone: ZoneName,
    node: NodeName,
    coordinators: Coordinators,
    metrics: Arc<Metrics>,
    sequence: u64,
    window: Window,
    linger: AdaptiveLinger,
}

impl Sender {
    async fn run(mut self, mut arriving: mpsc::Receiver<Group>) {
        let mut queue: VecDeque<Group> = VecDeque::new();
        let mut in_flight = FuturesUnordered::new();
        loop {
            let mut kept_until = None;
            while in_flight.len() < self.window.batches() {
                // Whose client has gone before anything was sent is not written.
                queue.retain(|group| !group.answer.is_closed());
                if queue.is_empty() {
                    self.linger.on_idle();
                    break;
                }
                let writes: usize = queue.iter().map(Weigh::writes).sum();
                let now = Instant::now();
                let bytes: usize = queue.iter().map(Weigh::bytes).sum();
                // Nothing more would come along.
                let has_room = writes < BATCH_WRITES_MAX && bytes < BATCH_BYTES_MAX;
                let kept = self.linger.hold_until(queue.len(), now);
                kept_until = kept.filter(|_| has_room);
                if kept_until.is_some() {
                    break;
                }
                let batch = self.batch(next_batch(&mut queue));
                self.linger.on_send(batch.writes(), now);
                let (coordinators, zone) = (self.coordinators.clone(), self.zone.clone());
                in_flight.push(send(coordinators, zone, batch));
            }
            tokio::select! {
                biased;
                Some(landing) = in_flight.next() => self.landed(&landing),
                () = until(kept_until) => {}
                group = arriving.recv() => match group {
                    Some(group) => self.arrived(&mut queue, group),
                    None => return,
                },
            }
            while queue.len() < SUBMIT_QUEUE_MAX
                && let Ok(group) = arriving.try_recv()
            {
                self.arrived(&mut queue, group);
            }
        }
    }

    fn arrived(&mut self, queue: &mut VecDeque<Group>, group: Group) {
        self.linger.on_enqueue();
        queue.push_back(group);
    }

    fn landed(&mut self, landing: &Landing) {
        let Some(round_trip) = landing.ordered else { return };
        self.linger.on_reply(landing.groups, Instant::now());
        if let Some(round_trip) = round_trip {
            self.metrics.submit.seconds.observe(round_trip.as_secs_f64());
            self.window.note(round_trip);
            self.linger.record_rtt(round_trip);
        }
    }

    fn batch(&mut self, mut groups: Vec<Group>) -> Flight {
        self.sequence += 1;
        let sizes: Vec<usize> = groups.iter().map(Weigh::writes).collect();
        #[expect(clippy::cast_precision_loss, reason = "at most 1000 writes")]
        self.metrics.submit.batch_writes.observe(sizes.iter().sum::<usize>() as f64);
        let writes = groups.iter_mut().flat_map(|group| std::mem::take(&mut group.writes));
        let writes = writes.collect();
        let (session, sequence, node) = (self.session, self.sequence, self.node.clone());
        let batch = Batch { session, sequence, node, writes };
        Flight { bytes: batch.encode(), groups, sizes }
    }
}

/// A batch under way and who waits for it.
struct Flight {
    bytes: Bytes,
    groups: Vec<Group>,
    sizes: Vec<usize>,
}

/// How a flight ended.
struct Landing {
    /// Requests, or parts of them, that were in it.
    groups: usize,
    /// It was ordered, which took so long; no time, if not the first attempt was answered: what was
    /// ordered before is answered at once.
    ordered: Option<Option<Duration>>,
}

/// Sends a batch until it is answered or nobody waits any longer.
async fn send(coordinators: Coordinators, zone: ZoneName, flight: Flight) -> Landing {
    let groups = flight.groups.len();
    Landing { groups, ordered: order(coordinators, zone, flight).await }
}

async fn order(
    coordinators: Coordinators,
    zone: ZoneName,
    mut flight: Flight,
) -> Option<Option<Duration>> {
    let deadline = flight.groups.iter().map(|group| group.deadline).max()?;
    let (mut maybe_taken, mut no_space, mut refused) = (false, false, false);
    let mut least = Duration::from_millis(1);
    loop {
        let started = Instant::now();
        let left = deadline.saturating_duration_since(started);
        if left < std::mem::replace(&mut least, ATTEMPT_MIN) {
            let error = match (maybe_taken, no_space) {
                (true, _) => SubmitError::Unknown,
                (false, true) => SubmitError::NoSpace,
                (false, false) if refused => SubmitError::NoLeader,
                (false, false) => SubmitError::TimeLimit,
            };
            flight.fail(&error);
            return None;
        }
        let (place, mut client) = coordinators.nearest();
        let max_wait_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        if maybe_taken && sabotage::is(Bug::ResendAsNew) {
            flight.renumber();
        }
        let batch = flight.bytes.clone();
        let zone = zone.to_string();
        let mut request = tonic::Request::new(SubmitRequest { batch, max_wait_ms, zone });
        request.set_timeout(left);
        match timeout_at(deadline, client.submit(request)).await {
            Ok(Ok(reply)) => {
                coordinators.note(place, true);
                flight.answer(reply.into_inner());
                return Some((!maybe_taken).then(|| started.elapsed()));
            }
            Ok(Err(status)) if is_final(&status) => {
                tracing::error!(%status, "a coordinator refused a batch");
                flight.fail(&SubmitError::Unknown);
                return None;
            }
            Ok(Err(status)) => {
                let not_taken = status.metadata().contains_key(NOT_TAKEN);
                refused = true;
                no_space = not_taken && status.code() == tonic::Code::ResourceExhausted;
                maybe_taken |= !not_taken && !never_sent(&status);
                coordinators.note(place, false);
                tokio::time::sleep(RETRY).await;
            }
            Err(_) => maybe_taken = true,
        }
    }
}

/// Whether sending again cannot help.
fn is_final(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, FailedPrecondition, InvalidArgument, Unimplemented};
    matches!(status.code(), InvalidArgument | FailedPrecondition | Unimplemented | Aborted)
}

impl Flight {
    fn writes(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// Makes another batch of it ([`Bug::ResendAsNew`]).
    fn renumber(&mut self) {
        if let Ok(mut batch) = Batch::decode(self.bytes.clone()) {
            batch.session[0] = batch.session[0].wrapping_add(1);
            self.bytes = batch.encode();
        }
    }

    fn fail(self, error: &SubmitError) {
        for group in self.groups {
            let _ = group.answer.send(Err(error.clone()));
        }
    }

    fn answer(self, reply: SubmitReply) {
        let expected = self.writes();
        let outcomes: Option<Vec<Outcome>> = reply.outcomes.iter().map(outcome).collect();
        let Some(outcomes) = outcomes.filter(|outcomes| outcomes.len() == expected) else {
            tracing::error!(expected, "a coordinator's answer does not fit its batch");
            return self.fail(&SubmitError::Unknown);
        };
        let mut outcomes = outcomes.into_iter();
        for (group, size) in self.groups.into_iter().zip(self.sizes) {
            let _ = group.answer.send(Ok(outcomes.by_ref().take(size).collect()));
        }
    }
}

fn outcome(outcome: &OrderResult) -> Option<Outcome> {
    let id = WriteId::try_from(outcome.id).ok()?;
    Some(match outcome.kind() {
        Kind::Ordered => Outcome::Ordered(Head {
            id,
            hash: LinkHash(outcome.hash[..].try_into().ok()?),
            digest: Digest(outcome.digest[..].try_into().ok()?),
            written_at: Micros(outcome.written_at),
        }),
        Kind::Repeated => Outcome::Repeated(id),
        Kind::KeyReused => Outcome::KeyReused(id),
    })
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;

    use super::{Outcome, SubmitError, together};

    #[test]
    fn nothing_written_is_said_only_when_it_holds_for_every_part_of_a_request() {
        let done = || Ok(vec![Outcome::Repeated(WriteId::FIRST)]);
        let none = || Err(SubmitError::NoLeader);
        assert_eq!(together(vec![done(), done()]).map(|all| all.len()), Ok(2));
        assert_eq!(together(vec![none()]), none());
        assert_eq!(together(vec![none(), none()]), none());
        for mixed in [vec![done(), none()], vec![none(), done()]] {
            assert_eq!(together(mixed), Err(SubmitError::Unknown));
        }
        assert_eq!(together(vec![none(), Err(SubmitError::Unknown)]), Err(SubmitError::Unknown));
    }
}
