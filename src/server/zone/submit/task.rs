//! The task behind the queue: batches what waits, and has as many batches in flight as the round trip needs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pghc_api::id::{NodeName, ZoneName};
use pghc_api::limits::{BATCH_BYTES_MAX, BATCH_WRITES_MAX, SUBMIT_QUEUE_MAX};
use pghc_runtime::task::until;
use pghc_runtime::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batcher::{Weigh, Window, next_batch};
use super::in_flight::{BatchEnd, BatchReply, InFlightBatch};
use super::pending::PendingRequest;
use crate::linger::AdaptiveLinger;
use crate::sequencer::{Batch, SessionId};
use crate::zone::coordinators::Coordinators;

/// Longest time the queue is held for other clients.
const LINGER_MAX: Duration = Duration::from_millis(15);

/// Owns the node's session: batches are numbered here, from 1.
pub(super) struct SubmitTask {
    session: SessionId,
    zone: ZoneName,
    node: NodeName,
    coordinators: Coordinators,
    metrics: Arc<Metrics>,
    sequence: u64,
    window: Window,
    linger: AdaptiveLinger,
}

/// The next step of the loop.
enum Step {
    Send,
    /// Waits for a reply or a request, at most until this time.
    Wait(Option<Instant>),
}

impl SubmitTask {
    pub(super) fn new(
        session: SessionId,
        (zone, node): (ZoneName, NodeName),
        coordinators: Coordinators,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            session,
            zone,
            node,
            coordinators,
            metrics,
            sequence: 0,
            window: Window::default(),
            linger: AdaptiveLinger::new(LINGER_MAX),
        }
    }

    /// Runs until the queue is closed.
    pub(super) async fn run(mut self, mut arriving: mpsc::Receiver<PendingRequest>) {
        let mut queue: VecDeque<PendingRequest> = VecDeque::new();
        let mut in_flight = FuturesUnordered::new();
        loop {
            let wait_until = loop {
                match self.step(&mut queue, in_flight.len()) {
                    Step::Send => {
                        let batch = self.batch(next_batch(&mut queue));
                        self.linger.on_send(Instant::now());
                        in_flight.push(batch.send(self.coordinators.clone(), self.zone.clone()));
                    }
                    Step::Wait(until) => break until,
                }
            };
            tokio::select! {
                biased;
                Some(reply) = in_flight.next() => self.on_reply(&reply),
                () = until(wait_until) => {}
                request = arriving.recv() => match request {
                    Some(request) => self.enqueue(&mut queue, request),
                    None => return,
                },
            }
            while queue.len() < SUBMIT_QUEUE_MAX
                && let Ok(request) = arriving.try_recv()
            {
                self.enqueue(&mut queue, request);
            }
        }
    }

    fn step(&mut self, queue: &mut VecDeque<PendingRequest>, in_flight: usize) -> Step {
        if in_flight >= self.window.batches() {
            return Step::Wait(None);
        }
        // A request whose client left before anything was sent is not written.
        queue.retain(|request| !request.answer.is_closed());
        if queue.is_empty() {
            self.linger.on_idle();
            return Step::Wait(None);
        }
        let writes: usize = queue.iter().map(Weigh::writes).sum();
        let bytes: usize = queue.iter().map(Weigh::bytes).sum();
        let hold = self.linger.hold_until(queue.len(), Instant::now());
        let is_full = writes >= BATCH_WRITES_MAX || bytes >= BATCH_BYTES_MAX;
        match hold {
            Some(until) if !is_full => Step::Wait(Some(until)),
            _ => Step::Send,
        }
    }

    fn enqueue(&mut self, queue: &mut VecDeque<PendingRequest>, request: PendingRequest) {
        self.linger.on_enqueue();
        queue.push_back(request);
    }

    fn on_reply(&mut self, reply: &BatchReply) {
        if !matches!(reply.end, BatchEnd::Failed) {
            self.linger.on_reply(reply.requests, Instant::now());
        }
        if let BatchEnd::Ordered(round_trip) = reply.end {
            self.metrics.submit.seconds.observe(round_trip.as_secs_f64());
            self.window.note(round_trip);
            self.linger.record_rtt(round_trip);
        }
    }

    fn batch(&mut self, mut requests: Vec<PendingRequest>) -> InFlightBatch {
        self.sequence += 1;
        let sizes: Vec<usize> = requests.iter().map(Weigh::writes).collect();
        #[expect(clippy::cast_precision_loss, reason = "at most 1000 writes")]
        self.metrics.submit.batch_writes.observe(sizes.iter().sum::<usize>() as f64);
        let writes = requests.iter_mut().flat_map(|request| std::mem::take(&mut request.writes));
        let batch = Batch {
            session: self.session,
            sequence: self.sequence,
            node: self.node.clone(),
            writes: writes.collect(),
        };
        InFlightBatch::new(&batch, requests, sizes)
    }
}
