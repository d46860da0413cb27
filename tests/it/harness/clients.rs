//! Clients that write without pause, each in its own zone, and never give a write up: a write
//! without an answer is sent again under the same key, in the next zone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pghc_api::wire::LinkBody;
use tokio::task::JoinHandle;

use super::{Site, client, wait_for};

/// A write that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct AckedWrite {
    pub(crate) id: u64,
    pub(crate) digest: String,
    pub(crate) payload: String,
}

/// Writers under way.
pub(crate) struct ClientPool {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    not_acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<AckedWrite>>>,
}

impl ClientPool {
    /// Starts `per_zone` writers in each zone.
    pub(crate) fn start(site: &Site, per_zone: usize) -> Self {
        Self::over(urls(site), per_zone)
    }

    /// As [`Self::start`], with the default timeout of a client that sets none.
    pub(crate) fn patient(site: &Site, per_zone: usize) -> Self {
        Self::with(urls(site), per_zone, "10s")
    }

    /// Starts `per_url` writers at each of these API nodes.
    pub(crate) fn over(urls: Vec<String>, per_url: usize) -> Self {
        Self::with(urls, per_url, "3s")
    }

    fn with(urls: Vec<String>, per_url: usize, timeout: &'static str) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let not_acknowledged = Arc::new(AtomicU64::new(0));
        let urls = Arc::new(urls);
        let writer = |number: usize| {
            let writer = Writer {
                number,
                timeout,
                urls: Arc::clone(&urls),
                http: client(),
                acknowledged: Arc::clone(&acknowledged),
                not_acknowledged: Arc::clone(&not_acknowledged),
            };
            let stop = Arc::clone(&stop);
            tokio::task::spawn(async move { writer.run(&stop).await })
        };
        let writers = (0..urls.len() * per_url).map(writer).collect();
        Self { stop, acknowledged, not_acknowledged, writers }
    }

    /// How often a writer got another answer than 2xx, or none, and had to send again.
    pub(crate) fn not_acknowledged(&self) -> u64 {
        self.not_acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `count` more writes were acknowledged: the client pool gets on.
    pub(crate) async fn progress(&self, count: u64) {
        let until = self.acknowledged.load(Ordering::Relaxed) + count;
        wait_for("progress of the writers", async || {
            (self.acknowledged.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
    }

    /// Lets every writer finish its last write; returns all that was acknowledged.
    pub(crate) async fn finish(self) -> Vec<AckedWrite> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acked_writes = Vec::new();
        for writer in self.writers {
            acked_writes.extend(writer.await.expect("no writer panics"));
        }
        acked_writes
    }
}

fn urls(site: &Site) -> Vec<String> {
    site.record().zones.into_iter().flat_map(|zone| zone.api).collect()
}

struct Writer {
    number: usize,
    timeout: &'static str,
    urls: Arc<Vec<String>>,
    http: reqwest::Client,
    acknowledged: Arc<AtomicU64>,
    not_acknowledged: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, stop: &AtomicBool) -> Vec<AckedWrite> {
        let mut acked_writes = Vec::new();
        for count in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            acked_writes.push(self.write(&format!("w{}-{count}", self.number)).await);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        acked_writes
    }

    /// Writes until acknowledged.
    async fn write(&self, key: &str) -> AckedWrite {
        let payload = format!("{{\"key\":\"{key}\"}}");
        for attempt in 0..600 {
            let url = &self.urls[(self.number + attempt) % self.urls.len()];
            let request = self.http.post(format!("{url}/v1/chain?timeout={}", self.timeout));
            let request = request.header("content-type", "application/json");
            let request = request.header("idempotency-key", key);
            let answer = request.body(format!("{{\"payload\":{payload}}}")).send().await;
            if let Ok(answer) = answer {
                let status = answer.status();
                let is_refusal = status.is_client_error() && status.as_u16() != 429;
                assert!(!is_refusal, "{status}: {:?}", answer.text().await);
                if status.is_success() {
                    // A cut answer is no answer: send again.
                    let Ok(link) = answer.json::<LinkBody>().await else { continue };
                    return AckedWrite { id: link.id, digest: link.digest.to_string(), payload };
                }
            }
            self.not_acknowledged.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("write {key} was not acknowledged in 600 attempts");
    }
}
