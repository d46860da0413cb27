//! The way of requests to the measured system, and its clock: HTTP in real time, or whatever else
//! implements [`Transport`].

use std::time::Instant as StdInstant;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{get, post};
use super::load::{Failure, classify};
use super::pacer::{self, Lane, Paced};
use super::pool::{Broken, Pool};
use super::target::{Endpoint, Target};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A write, to be answered when the zone has applied it.
    Write {
        /// Its idempotency key.
        key: String,
        /// One JSON value.
        payload: String,
    },
    /// The link of an id.
    Read {
        /// The id, from 1.
        id: u64,
        /// The zone must have applied this id first; 0: no condition.
        at_least: u64,
    },
    /// The newest link that is committed anywhere.
    Newest,
}

/// The end of one attempt.
#[derive(Debug)]
pub struct Reply {
    /// The id of a write, any number for a read.
    pub outcome: Result<u64, Failure>,
    /// The server's own time, as `Server-Timing` has it.
    pub timing: Option<String>,
    /// Whether only an idle connection had broken, so that the next attempt needs no pause.
    pub was_stale: bool,
}

/// Carries requests to API nodes, and calls them when they are due.
pub trait Transport {
    /// A request in the form in which each attempt sends it.
    type Request;

    /// Number of API nodes in the zone of this number, at least 1.
    fn nodes(&self, zone: usize) -> usize;

    /// Prepares a request to a node of a zone.
    fn prepare(&self, zone: usize, node: usize, ask: Ask) -> Self::Request;

    /// Sends a request once. The caller bounds the wait by `deadline`, which the node may know.
    fn exchange(
        &self,
        zone: usize,
        node: usize,
        request: &Self::Request,
        deadline: Instant,
    ) -> impl Future<Output = Reply>;

    /// Calls each lane's requests when they are due, as [`pacer::run`] does, until `stop` is
    /// cancelled.
    fn pace(
        &self,
        start: StdInstant,
        lanes: Vec<Lane>,
        stop: &CancellationToken,
    ) -> impl Future<Output = Vec<Paced>>;

    /// Sleeps until `at`.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()>;
}

/// HTTP to the nodes of a target, in real time.
#[derive(Debug)]
pub struct Http<'a> {
    nodes: Vec<Vec<(&'a Endpoint, Pool)>>,
}

impl<'a> Http<'a> {
    /// Clients of `target`; the first requests connect.
    #[must_use]
    pub fn new(target: &'a Target) -> Self {
        let node = |node: &'a Endpoint| (node, Pool::new(node.address));
        let zones = target.zones.iter().map(|zone| zone.nodes.iter().map(node).collect());
        Self { nodes: zones.collect() }
    }
}

/// Bytes of a request, and whether it is a write.
#[derive(Debug)]
pub struct HttpRequest {
    bytes: Vec<u8>,
    is_write: bool,
}

impl Transport for Http<'_> {
    type Request = HttpRequest;

    fn nodes(&self, zone: usize) -> usize {
        self.nodes[zone].len()
    }

    fn prepare(&self, zone: usize, node: usize, ask: Ask) -> HttpRequest {
        let host = &self.nodes[zone][node].0.host;
        let is_write = matches!(ask, Ask::Write { .. });
        let bytes = match ask {
            Ask::Write { key, payload } => {
                let body = format!(r#"{{"payload":{payload}}}"#);
                post(host, "/v1/chain", "application/json", Some(&key), body.as_bytes())
            }
            Ask::Read { id, at_least: 0 } => get(host, &format!("/v1/chain/{id}")),
            Ask::Read { id, at_least } => get(host, &format!("/v1/chain/{id}?at_least={at_least}")),
            Ask::Newest => get(host, "/v1/chain/head?linearizable=true"),
        };
        HttpRequest { bytes, is_write }
    }

    async fn exchange(&self, zone: usize, node: usize, request: &HttpRequest, _: Instant) -> Reply {
        let pool = &self.nodes[zone][node].1;
        let reply = pool.exchange(&request.bytes, |answer| {
            let outcome = match request.is_write {
                false if answer.status == 200 => Ok(0),
                false => classify(answer.status, answer.body).and(Ok(0)),
                true => classify(answer.status, answer.body),
            };
            Reply { outcome, timing: answer.timing.map(str::to_owned), was_stale: false }
        });
        reply.await.unwrap_or_else(|Broken { error, was_kept }| Reply {
            outcome: Err(Failure::unknown(format!("broken: {}", error.kind()))),
            timing: None,
            was_stale: was_kept,
        })
    }

    async fn pace(
        &self,
        start: StdInstant,
        lanes: Vec<Lane>,
        stop: &CancellationToken,
    ) -> Vec<Paced> {
        pacer::pace(start, lanes, stop).await
    }

    async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }
}
