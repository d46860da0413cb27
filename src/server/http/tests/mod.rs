//! Tests of the HTTP face against its real server on a loopback port, with a double behind it.

mod bad_input;
mod bulk;
mod contract;
mod cost;
mod double;
mod postgres;
mod reads;
mod server;
mod writes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Api, Cors, Limits, serve};
use double::Double;

/// A served double; ends when dropped.
struct Server {
    address: SocketAddr,
    double: Arc<Double>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    leaving: CancellationToken,
    tasks: Tasks,
    client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    /// Asserts a problem of this status and code, whole in form.
    #[track_caller]
    fn is_problem(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["status"], status);
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
        assert_eq!(self.headers.contains_key("retry-after"), matches!(status, 429 | 503 | 507));
        body
    }
}

impl Server {
    async fn start() -> Self {
        Self::with(Limits::default(), Cors::Closed).await
    }

    async fn with(limits: Limits, cors: Cors) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), limits, cors).await
    }

    async fn at(address: SocketAddr, limits: Limits, cors: Cors) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free loopback port");
        let address = listener.local_addr().expect("it is bound");
        let double = Double::new();
        let metrics = Metrics::for_api_node(Api::routes());
        let shutdown = CancellationToken::new();
        let service = Arc::clone(&double);
        let api = Api::new(service, Arc::clone(&metrics), limits, shutdown.clone());
        let (tasks, leaving) = (Tasks::default(), api.leaving_signal());
        tasks.spawn("server", async move { serve(listener, Arc::new(api), &cors).await });
        #[expect(clippy::disallowed_methods, reason = "tests send what no client of ours does")]
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { address, double, metrics, shutdown, leaving, tasks, client }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Got {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Got { status, headers, text: response.text().await.expect("a whole answer") }
    }

    async fn get(&self, path: &str) -> Got {
        self.send(self.client.get(self.url(path))).await
    }

    /// Posts JSON to `/v1/chain` with this query string.
    async fn post(&self, query: &str, body: impl Into<reqwest::Body>) -> Got {
        self.send(self.request(query, body)).await
    }

    fn request(&self, query: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        let url = self.url(&format!("/v1/chain{query}"));
        self.client.post(url).header("content-type", "application/json").body(body)
    }

    /// Sends raw bytes and reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        stream.write_all(bytes).await.expect("the server reads");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("the server closes");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Longest a test waits for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
