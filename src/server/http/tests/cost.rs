//! Cost of the HTTP layer: requests a second, and processor time for each, against a bare axum
//! stub in one run. The second means something on a busy machine too.
//!
//! Not part of the suite: it measures, needs `wrk` and means something in release only:
//! `cargo test --release -p pghc-server cost -- --ignored --nocapture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::post;
use futures::future::BoxFuture;
use pghc_api::chain::{Digest, Head, Link, LinkHash};
use pghc_api::id::{NodeName, WriteId};
use pghc_api::time::Micros;
use pghc_api::wire::Status;
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::double::Double;
use crate::http::{Api, Cors, Limits, serve};
use crate::zone::{
    Identity, NewWrite, OrderResult, ReadError, ReadRequirement, ReadResult, Service, SubmitError,
    Unready,
};

/// A node that does nothing but count.
struct Counter {
    identity: Identity,
    id: AtomicU64,
}

impl Service for Counter {
    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn seen(&self) -> u64 {
        self.frontier()
    }

    fn known(&self) -> u64 {
        self.frontier()
    }

    fn frontier(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }
    fn may_read(&self) -> Result<(), ReadError> {
        Ok(())
    }

    fn ready_to_read(&self) -> Result<(), Unready> {
        Ok(())
    }

    fn ready_to_write(&self) -> Result<(), Unready> {
        Ok(())
    }
    fn submit(
        &self,
        writes: Vec<NewWrite>,
        _: Instant,
    ) -> BoxFuture<'_, Result<Vec<OrderResult>, SubmitError>> {
        let count = writes.len() as u64;
        let first = self.id.fetch_add(count, Ordering::Relaxed) + 1;
        let head = |id: u64| Head {
            id: id.try_into().expect("small"),
            hash: LinkHash([7; 16]),
            digest: Digest([7; 32]),
            written_at: Micros(1_700_000_000_123_456),
        };
        let outcomes = (first..first + count).map(|id| OrderResult::Ordered(head(id))).collect();
        Box::pin(std::future::ready(Ok(outcomes)))
    }
    fn wait_applied(&self, _: u64, _: Instant) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(std::future::ready(Ok(self.frontier())))
    }
    fn wait_everywhere(&self, _: u64, _: Instant) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn read_index(&self, _: Instant) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(std::future::ready(Ok(0)))
    }
    fn link(
        &self,
        _: WriteId,
        _: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>> {
        Box::pin(std::future::ready(Ok(ReadResult { value: None, frontier: 0 })))
    }
    fn newest(
        &self,
        _: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>> {
        Box::pin(std::future::ready(Ok(ReadResult { value: None, frontier: 0 })))
    }
    fn page(
        &self,
        _: u64,
        _: usize,
        _: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<Link>>, ReadError>> {
        Box::pin(std::future::ready(Ok(ReadResult { value: Vec::new(), frontier: 0 })))
    }
    fn recent(
        &self,
        _: usize,
        _: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<(WriteId, LinkHash, NodeName)>>, ReadError>> {
        Box::pin(std::future::ready(Ok(ReadResult { value: Vec::new(), frontier: 0 })))
    }
    fn status(&self) -> BoxFuture<'_, Status> {
        unreachable!("nobody asks")
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    (listener, url)
}

/// Processor time of this process so far, in microseconds.
fn processor_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    // In ticks of 1/100 s: user and system.
    fields.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() * 10_000.0
}

/// Requests a second, and microseconds of our processor time for each.
async fn wrk(url: String, body: &str) -> (f64, f64) {
    let before = processor_micros();
    let script = tempfile::Builder::new().suffix(".lua").tempfile().expect("a file");
    let text = format!(
        "wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['content-type'] = 'application/json'\n"
    );
    std::fs::write(script.path(), text).expect("it is ours");
    let mut command = tokio::process::Command::new("wrk");
    command.args(["-t1", "-c64", "-d3s", "-s"]).arg(script.path()).arg(url);
    let output = command.output().await.expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("a rate");
    let rate: f64 = line.trim().parse().expect("a number");
    let done = text.lines().find_map(|line| line.trim().split_once(" requests in"));
    let done: f64 = done.expect("a count").0.parse().expect("a number");
    (rate, (processor_micros() - before) / done)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and needs wrk: cargo test --release -p pghc-server cost -- --ignored --nocapture"]
async fn cost_of_a_write_against_a_bare_stub() {
    let tasks = Tasks::default();
    let (listener, stub) = listen().await;
    let row = r#"{"zk_id":1234567,"hash":"07070707070707070707070707070707","node_id":"eu-api-1"}"#;
    let router = Router::new().route("/", post(async move || row));
    tasks.spawn("stub", async move { axum::serve(listener, router).await.expect("it serves") });
    let (listener, node) = listen().await;
    let identity = Double::new().identity().clone();
    let service = Arc::new(Counter { identity, id: AtomicU64::new(0) });
    let metrics = Metrics::for_api_node(Api::routes());
    let api = Api::new(service, metrics, Limits::default(), CancellationToken::new());
    tasks.spawn("node", async move { serve(listener, Arc::new(api), &Cors::Closed).await });
    let payload = format!(r#"{{"payload":{{"text":"{}"}}}}"#, "x".repeat(180));
    for round in 1..=3 {
        let bare = wrk(format!("{stub}/"), "").await;
        let original = wrk(format!("{node}/chain"), "").await;
        let v1 = wrk(format!("{node}/v1/chain"), &payload).await;
        println!("round {round}:");
        for (name, (rate, micros)) in [("stub", bare), ("/chain", original), ("/v1/chain", v1)] {
            println!("  {name}: {rate:.0}/s, {micros:.1} us of processor time each");
        }
    }
}
