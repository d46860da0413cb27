//! Clients: they write and read in any zone, retry what they do not know, carry tokens from zone to
//! zone, and record everything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pghc_history::{Fingerprint, Operation, OrderResult, ReadOutcome, What};
use pghc_server::zone::{self, NewWrite, Node, ReadRequirement, Service as _, SubmitError};
use pghc_sim::SeededRng;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::SimCluster;

/// A node that has not answered this long after the deadline is given up.
const GRACE: Duration = Duration::from_secs(1);

/// Attempts at one write.
const ATTEMPTS_MAX: usize = 40;

pub(crate) struct Client {
    pub(crate) cluster: Arc<SimCluster>,
    pub(crate) rng: SeededRng,
    pub(crate) number: u32,
    /// Newest id this client knows of.
    token: u64,
    writes: u64,
}

impl Client {
    pub(crate) fn new(cluster: &Arc<SimCluster>, number: u32) -> Self {
        Self { cluster: Arc::clone(cluster), rng: cluster.rng.fork(), number, token: 0, writes: 0 }
    }

    /// Works until the cluster stops.
    pub(crate) async fn run(mut self, stop: tokio_util::sync::CancellationToken) -> u64 {
        while !stop.is_cancelled() {
            sleep(self.rng.millis(1, 120)).await;
            match self.rng.below(10) {
                0..=5 => self.write().await,
                6..=7 => self.read(false).await,
                _ => self.read(true).await,
            }
        }
        self.token
    }

    async fn write(&mut self) {
        self.writes += 1;
        let payload = format!("{{\"client\":{},\"write\":{}}}", self.number, self.writes);
        let key = self.rng.per_mille(700).then_some(u64::from(self.number) << 32 | self.writes);
        for _ in 0..ATTEMPTS_MAX {
            let again = self.attempt(key, &payload).await;
            if !again {
                return;
            }
            sleep(self.rng.millis(1, 400)).await;
        }
    }

    /// Makes one attempt; returns whether to make another.
    async fn attempt(&mut self, key: Option<u64>, payload: &str) -> bool {
        let place = self.rng.below(self.cluster.places.len());
        let within = self.rng.millis(200, 4000);
        let started = self.cluster.now();
        let write = NewWrite {
            key: key.map(|key| format!("k{key}").parse().expect("a plain key")),
            payload: Some(Bytes::copy_from_slice(payload.as_bytes())),
        };
        let done = self.at(place, within, move |node, until| write_at(node, write, until)).await;
        let Some(done) = done else { return true };
        let outcome = done.unwrap_or(OrderResult::Unknown);
        if let OrderResult::Acknowledged { id, .. } | OrderResult::Committed { id } = outcome {
            self.token = self.token.max(id);
        }
        let payload = Some(Fingerprint::of(payload.as_bytes()));
        self.record(place, started, What::Write { key, payload, outcome });
        match outcome {
            OrderResult::Acknowledged { .. } => false,
            OrderResult::Refused => true,
            // Without a key a retry would be another write.
            OrderResult::Committed { .. } | OrderResult::Unknown => key.is_some(),
        }
    }

    async fn read(&mut self, linearizable: bool) {
        let place = self.rng.below(self.cluster.places.len());
        let within = self.rng.millis(200, 3000);
        let (started, token) = (self.cluster.now(), self.token);
        let zone = &self.cluster.zones[self.cluster.places[place].zone];
        let on_disk = zone.database.is_on_disk();
        let seen =
            self.at(place, within, move |node, until| read_at(node, linearizable, token, until));
        let Some(seen) = seen.await else { return };
        let outcome = seen.unwrap_or(ReadOutcome::Failed);
        if let ReadOutcome::Seen { frontier, digest } = outcome {
            if digest.is_none() && frontier > 0 && on_disk {
                self.cluster
                    .fail(&format!("a node says that {frontier} is applied, and it is not there"));
            }
            self.token = self.token.max(frontier);
        }
        let at_least = Some(token).filter(|token| *token > 0);
        self.record(place, started, What::Read { at_least, linearizable, outcome });
    }

    /// Runs a request in a node's process, as its HTTP server would. `None` when nothing was sent;
    /// `Some(None)` when no answer came.
    async fn at<T, F>(
        &self,
        place: usize,
        within: Duration,
        request: impl FnOnce(Arc<Node>, Instant) -> F,
    ) -> Option<Option<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (process, node) = self.cluster.node(place)?;
        let answer = process.spawn(request(node?, Instant::now() + within));
        let answer = timeout(within + GRACE, answer).await;
        Some(answer.ok().and_then(Result::ok))
    }

    fn record(&self, place: usize, started: u64, what: What) {
        let zone = u16::try_from(self.cluster.places[place].zone).expect("three zones");
        let (client, session) = (self.number, self.number);
        let operation =
            Operation { client, session, zone, started, ended: self.cluster.now(), what };
        tracing::debug!(?operation, "OPERATION");
        self.cluster.history.lock().operations.push(operation);
        let _ = self.cluster.is_calm.load(Ordering::Relaxed);
    }
}

/// The operation of `POST /v1/writes`.
async fn write_at(node: Arc<Node>, write: NewWrite, until: Instant) -> OrderResult {
    let outcome = match node.submit(vec![write], until).await {
        Ok(outcomes) => outcomes.into_iter().next().expect("one for each"),
        Err(SubmitError::Unknown) => return OrderResult::Unknown,
        Err(_) => return OrderResult::Refused,
    };
    let (id, digest, repeated) = match outcome {
        zone::OrderResult::Ordered(head) => (head.id, Some(head.digest), false),
        zone::OrderResult::Repeated(id) => (id, None, true),
        zone::OrderResult::KeyReused(_) => return OrderResult::Refused,
    };
    if node.wait_applied(id.get(), until).await.is_err() {
        return OrderResult::Committed { id: id.get() };
    }
    let digest = match digest {
        Some(digest) => digest,
        None => match node.link(id, need(id.get(), until)).await.map(|seen| seen.value) {
            Ok(Some(link)) => link.digest,
            _ => return OrderResult::Committed { id: id.get() },
        },
    };
    OrderResult::Acknowledged { id: id.get(), digest, repeated, applied: true }
}

/// The operation of `GET /v1/chain?at_least=…`.
async fn read_at(node: Arc<Node>, linearizable: bool, token: u64, until: Instant) -> ReadOutcome {
    if node.may_read().is_err() {
        return ReadOutcome::Failed;
    }
    let mut at_least = token;
    if linearizable {
        match node.read_index(until).await {
            Ok(id) => at_least = at_least.max(id),
            Err(_) => return ReadOutcome::Failed,
        }
    }
    match node.newest(need(at_least, until)).await {
        Ok(seen) => ReadOutcome::Seen {
            frontier: seen.frontier,
            digest: seen.value.map(|link| link.digest),
        },
        Err(_) => ReadOutcome::Failed,
    }
}

fn need(at_least: u64, deadline: Instant) -> ReadRequirement {
    ReadRequirement { at_least, deadline, may_be_replica: true }
}
