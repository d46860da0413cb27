//! Open-loop writes in every zone: each is sent at its planned time, however slow the answers are.
//!
//! Latency counts from the planned time, so waiting for a free connection or a busy generator is in
//! it; service time counts from the moment the request really left. Every write carries an
//! idempotency key and a payload that names it, so that [`super::ledger`] can find it in the chain.
//! Invariant: every planned write ends as exactly one of dropped, written, refused or unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt as _};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::client::{Connection, post};
use super::histogram::Latencies;
use super::ledger::Book;
use super::pacer::{self, Arrival, Due, Lane, Plan};
use super::target::{Endpoint, Target, Zone};

/// Writes of one zone that may wait for a free connection; more are dropped and counted.
const BACKLOG_MAX: usize = 4_096;

/// Time between the making of the plan and its first request, so that everything is in place.
const LEAD: Duration = Duration::from_millis(50);

/// Most kinds of failure told apart in one zone.
const KINDS_MAX: usize = 16;

/// What to send.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Writes a second in each zone, above 0.
    pub rate: f64,
    /// How long new writes are planned.
    pub length: Duration,
    /// How they are spread.
    pub arrival: Arrival,
    /// Makes the plan.
    pub seed: u64,
    /// After this long without an answer a write is unknown.
    pub timeout: Duration,
    /// Most connections, and so most writes under way, in each zone.
    pub connections: usize,
    /// Size of a payload in bytes, at least what names the write takes.
    pub payload_bytes: usize,
}

/// What became of one write, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Never sent: the backlog was full.
    Dropped,
    /// Answered with this id.
    Written(u64),
    /// Answered that it is not written, or never handed over.
    Refused,
    /// No answer, or one that does not say.
    Unknown,
}

/// What one zone's clients saw.
#[derive(Debug, Clone, Default)]
pub struct ZoneLoad {
    /// The zone.
    pub zone: String,
    /// What became of each planned write, in the order of the plan.
    pub fates: Vec<Fate>,
    /// From the planned time to the answer, of the written.
    pub latency: Latencies,
    /// From the real sending to the answer, of the written.
    pub service: Latencies,
    /// From the planned time to the real sending, of all sent.
    pub slip: Latencies,
    /// Writes sent again on a new connection, under the same key, because a kept one had closed.
    pub resent: u64,
    /// What went wrong, by kind.
    pub failures: BTreeMap<String, u64>,
}

impl ZoneLoad {
    /// Its part of the books.
    #[must_use]
    pub fn book(&self) -> Book<'_> {
        Book { name: &self.zone, fates: &self.fates }
    }

    /// How many planned writes ended like this.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(Fate) -> bool) -> u64 {
        self.fates.iter().filter(|fate| wanted(**fate)).count() as u64
    }
}

/// Sets the flag when the run is over or given up, which ends the pacer's thread.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Drives all zones of `target` and answers what each saw, in the same order. `run` names this run
/// in keys and payloads: at most 32 visible ASCII characters without `"` and `\`.
pub async fn drive(target: &Target, options: &LoadOptions, run: &str) -> Vec<ZoneLoad> {
    let stop = StopOnDrop(Arc::default());
    let start = Instant::now() + LEAD;
    let (mut lanes, mut zones) = (Vec::new(), Vec::new());
    for (place, zone) in target.zones.iter().enumerate() {
        let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
        let plan = Plan::new(options.arrival, options.rate, options.length, options.seed, place);
        lanes.push(Lane { plan: Box::new(plan), sender });
        zones.push(drive_zone(zone, receiver, options, run));
    }
    let flag = Arc::clone(&stop.0);
    let pacing = tokio::task::spawn_blocking(move || pacer::run(start, lanes, &flag));
    let (mut loads, paced) = tokio::join!(futures::future::join_all(zones), pacing);
    for (load, paced) in loads.iter_mut().zip(paced.expect("the pacer does not panic")) {
        // The last planned ones may have been dropped, and nothing that ended came after them.
        let planned = usize::try_from(paced.planned).expect("a plan fits into memory");
        load.fates.resize(planned, Fate::Dropped);
        assert_eq!(
            load.count(|fate| fate == Fate::Dropped),
            paced.dropped,
            "a write was forgotten"
        );
    }
    loads
}

async fn drive_zone(
    zone: &Zone,
    mut planned: mpsc::Receiver<Due>,
    options: &LoadOptions,
    run: &str,
) -> ZoneLoad {
    let mut load = ZoneLoad { zone: zone.name.clone(), ..ZoneLoad::default() };
    let mut idle: Vec<Vec<Connection>> = zone.nodes.iter().map(|_| Vec::new()).collect();
    let mut under_way = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !under_way.is_empty() {
        tokio::select! {
            Some(done) = under_way.next(), if !under_way.is_empty() => {
                let Done { node, connection, .. } = load.note(done);
                idle[node].extend(connection);
            }
            due = planned.recv(), if is_open && under_way.len() < options.connections => {
                let Some(due) = due else { is_open = false; continue };
                let node = usize::try_from(due.number).unwrap_or_default() % zone.nodes.len();
                let kept = idle[node].pop();
                let endpoint = &zone.nodes[node];
                let request = request(&endpoint.host, run, &zone.name, due.number, options);
                under_way.push(async move {
                    write(endpoint, kept, &request, due, options.timeout).await.at(node)
                });
            }
        }
    }
    load
}

/// What the chain's payload says of a write: whose it is.
#[derive(Debug, Deserialize)]
pub(super) struct Mark {
    pub(super) run: String,
    pub(super) zone: String,
    pub(super) n: u64,
}

/// The bytes of write `number`: its key and its payload name it.
fn request(host: &str, run: &str, zone: &str, number: u64, options: &LoadOptions) -> Vec<u8> {
    let mut payload = format!(r#"{{"run":"{run}","zone":"{zone}","n":{number},"pad":""#);
    let pad = options.payload_bytes.saturating_sub(payload.len() + 2);
    payload.extend(std::iter::repeat_n('x', pad));
    let body = format!(r#"{{"payload":{payload}"}}}}"#);
    let key = format!("{run}-{zone}-{number}");
    post(host, "/v1/chain", "application/json", Some(&key), body.as_bytes())
}

/// One write that has ended.
struct Done {
    due: Due,
    sent: Instant,
    answered: Instant,
    outcome: Result<u64, Failure>,
    resent: bool,
    node: usize,
    /// For the next write, when it is still good.
    connection: Option<Connection>,
}

impl Done {
    fn at(self, node: usize) -> Self {
        Self { node, ..self }
    }
}

/// Why a write was not acknowledged.
pub(super) struct Failure {
    pub(super) fate: Fate,
    pub(super) kind: String,
}

async fn write(
    endpoint: &Endpoint,
    kept: Option<Connection>,
    request: &[u8],
    due: Due,
    timeout: Duration,
) -> Done {
    let sent = Instant::now();
    let (mut connection, mut resent) = (None, false);
    let attempt = async {
        if let Some(mut kept) = kept {
            if let Ok(answer) = kept.exchange(request).await {
                let (outcome, closes) = (judge(answer.status, answer.body), answer.closes);
                connection = (!closes).then_some(kept);
                return outcome;
            }
            // The node may have closed it while it was idle; the key makes a repetition harmless.
            resent = true;
        }
        let refused = |error: std::io::Error| Failure {
            fate: if resent { Fate::Unknown } else { Fate::Refused },
            kind: format!("connect: {}", error.kind()),
        };
        let mut fresh = Connection::open(endpoint.address).await.map_err(refused)?;
        let broken = |error: std::io::Error| Failure {
            fate: Fate::Unknown,
            kind: format!("broken: {}", error.kind()),
        };
        let answer = fresh.exchange(request).await.map_err(broken)?;
        let (outcome, closes) = (judge(answer.status, answer.body), answer.closes);
        connection = (!closes).then_some(fresh);
        outcome
    };
    let outcome = tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
        Err(Failure { fate: Fate::Unknown, kind: format!("no answer in {timeout:?}") })
    });
    Done { due, sent, answered: Instant::now(), outcome, resent, node: 0, connection }
}

/// What an answer says of its write: 2xx is written, 4xx never will be, anything else leaves it open.
pub(super) fn judge(status: u16, body: &[u8]) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Written {
        id: u64,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    if matches!(status, 200 | 201)
        && let Ok(Written { id }) = serde_json::from_slice(body)
    {
        return Ok(id);
    }
    let code = serde_json::from_slice::<Problem>(body).map(|problem| problem.code);
    let code = code.unwrap_or_else(|_| "not an answer of pghc".to_owned());
    let fate = if (400..500).contains(&status) { Fate::Refused } else { Fate::Unknown };
    Err(Failure { fate, kind: format!("{status} {code}") })
}

impl ZoneLoad {
    /// Books a write that has ended. Numbers skipped so far were dropped, unless they end later.
    fn note(&mut self, done: Done) -> Done {
        let place = usize::try_from(done.due.number).expect("a plan fits into memory");
        if self.fates.len() <= place {
            self.fates.resize(place + 1, Fate::Dropped);
        }
        self.slip.record(done.sent.saturating_duration_since(done.due.planned));
        self.resent += u64::from(done.resent);
        match &done.outcome {
            Ok(id) => {
                self.fates[place] = Fate::Written(*id);
                self.latency.record(done.answered - done.due.planned);
                self.service.record(done.answered - done.sent);
            }
            Err(Failure { fate, kind }) => {
                self.fates[place] = *fate;
                let is_new = !self.failures.contains_key(kind);
                let kind = if is_new && self.failures.len() >= KINDS_MAX { "other" } else { kind };
                *self.failures.entry(kind.to_owned()).or_default() += 1;
            }
        }
        done
    }
}
