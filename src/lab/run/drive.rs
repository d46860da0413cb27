//! Load generation: open and closed clients in every zone, and a record of every write.
//!
//! Latency counts from the planned time of an open client and from the sending of a closed one.
//! Every write has an idempotency key and is sent again under it until it is decided or its time is
//! over. Invariant: every sent write has exactly one record and exactly one result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::plan::{Curve, Times, seed_of};
use super::scenario::{Clients, Mix, Scenario};
use super::scenario_values::ValueGenerator;
use crate::client::{Connection, get, post};
use crate::histogram::Latencies;
use crate::load::{Failure, WriteResult, classify};
use crate::pacer::{self, Lane};
use crate::target::{Endpoint, Target, Zone};

/// Requests of one group that may wait for a free connection; more are dropped and counted.
pub const BACKLOG_MAX: usize = 8_192;

/// Time between the making of the plan and its first request.
const LEAD: Duration = Duration::from_millis(50);

/// First pause before a request is sent again; doubled each time.
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a request is sent again.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time for answers to what is under way when a run is stopped early.
pub const GRACE: Duration = Duration::from_secs(5);

/// Most kinds of failure told apart by one group.
pub const KINDS_MAX: usize = 16;

/// Most parts of a server's time told apart by one group.
const PARTS_MAX: usize = 16;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// A write, applied in the zone that answers.
    Write,
    /// The newest link that the zone holds.
    ReadLocal,
    /// No older than what these clients wrote.
    ReadSession,
    /// The newest anywhere.
    ReadLinear,
}

impl Op {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Write, Self::ReadLocal, Self::ReadSession, Self::ReadLinear];

    /// Draws a kind by its share.
    pub fn draw(mix: &Mix, rng: &mut StdRng) -> Self {
        let shares = [mix.write, mix.read_local, mix.read_session, mix.read_linear];
        let mut drawn = rng.random_range(0.0..shares.iter().sum::<f64>());
        let op = Self::ALL.into_iter().zip(shares).find(|(_, share)| {
            drawn -= share;
            drawn < 0.0
        });
        op.map_or(Self::Write, |(op, _)| op)
    }

    /// As in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::ReadLocal => "read-local",
            Self::ReadSession => "read-session",
            Self::ReadLinear => "read-linear",
        }
    }
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Kind of the request.
    pub op: Op,
    /// Planned time after the start.
    pub planned: Duration,
    /// From the planned time to the answer.
    pub latency: Duration,
    /// From the first sending to the answer.
    pub service: Duration,
    /// Whether it was answered as asked.
    pub ok: bool,
}

/// A write that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Planned time after the start.
    pub planned: Duration,
}

/// Record of one client group in one zone.
#[derive(Debug, Default)]
pub struct Log {
    /// Its name in keys and payloads: zone and number of the group.
    pub name: String,
    /// Place of its zone in the target.
    pub zone: usize,
    /// Result of each write, in the order of their numbers.
    pub results: Vec<WriteResult>,
    /// The writes, in the same order.
    pub writes: Vec<Write>,
    /// Every request that ended.
    pub samples: Vec<Sample>,
    /// How late requests of open clients left.
    pub slip: Latencies,
    /// Requests planned and never sent.
    pub dropped: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Number of failures, by kind.
    pub failures: BTreeMap<String, u64>,
    /// Parts of the servers' own time: sum in ms and count.
    pub timing: BTreeMap<String, (f64, u64)>,
}

/// Live counters for the progress display.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests answered as asked.
    pub ok: AtomicU64,
    /// Requests that ended otherwise.
    pub failed: AtomicU64,
}

/// Data shared by all groups.
#[derive(Debug, Clone, Copy)]
pub struct RunContext<'a> {
    /// Where requests go.
    pub target: &'a Target,
    /// The scenario to run.
    pub scenario: &'a Scenario,
    /// Name of the run: at most 32 visible ASCII characters without `"` and `\`.
    pub run: &'a str,
    /// Newest id when it began.
    pub newest: u64,
    /// The start of the warm-up.
    pub start: Instant,
    /// Counts.
    pub progress: &'a Progress,
    /// Ends the sending early. A write without an answer after [`GRACE`] stays unknown.
    pub stop: &'a CancellationToken,
}

impl RunContext<'_> {
    /// When a run that is prepared now starts.
    #[must_use]
    pub fn start_from_now() -> Instant {
        Instant::now() + LEAD
    }

    /// Ends when a run that is stopped early waits for no more answers.
    async fn over(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    }
}

/// Sets the flag when the run is over or given up, which ends the pacer's thread.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends everything and answers the logs, group by group.
pub async fn drive(context: RunContext<'_>) -> Vec<Log> {
    let stop = StopOnDrop(Arc::default());
    let scenario = context.scenario;
    let (mut lanes, mut open, mut closed) = (Vec::new(), Vec::new(), Vec::new());
    for (number, clients) in scenario.clients.iter().enumerate() {
        for (place, zone) in context.target.zones.iter().enumerate() {
            if clients.zone != "*" && clients.zone != zone.name {
                continue;
            }
            let name = format!("{}/{number}", zone.name);
            let group = Group::new(context, clients, zone, place, name);
            let Some(arrival) = clients.open() else {
                closed.push(group.drive_closed());
                continue;
            };
            let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
            let curve = Curve::new(clients.rate, &zone.name, scenario);
            let seed = seed_of(scenario.seed, &group.log.lock().name);
            let plan = Times::new(curve, arrival, scenario.length(), seed);
            lanes.push(Lane { plan: Box::new(plan), sender });
            open.push(group.drive_open(receiver));
        }
    }
    let (flag, start) = (Arc::clone(&stop.0), context.start);
    let pacing = tokio::task::spawn_blocking(move || pacer::run(start, lanes, &flag));
    let all = (futures::future::join_all(open), futures::future::join_all(closed));
    let stopping = async {
        context.stop.cancelled().await;
        stop.0.store(true, Ordering::Relaxed);
        std::future::pending().await
    };
    let (mut logs, others, paced) = tokio::select! {
        ended = async { tokio::join!(all.0, all.1, pacing) } => ended,
        never = stopping => never,
    };
    for (log, paced) in logs.iter_mut().zip(paced.expect("the pacer does not panic")) {
        log.dropped = paced.dropped;
    }
    logs.extend(others);
    logs
}

/// One client group in one zone while it runs.
struct Group<'a> {
    context: RunContext<'a>,
    clients: &'a Clients,
    zone: &'a Zone,
    values: ValueGenerator,
    rng: Mutex<StdRng>,
    /// Newest id that this group wrote or saw.
    newest: AtomicU64,
    log: Mutex<Log>,
}

/// A request, ready to be sent.
struct Request {
    op: Op,
    /// Place in the log, of a write.
    number: usize,
    bytes: Vec<u8>,
}

/// How a request ended.
struct End {
    outcome: Result<u64, Failure>,
    attempts: u64,
    timing: Option<String>,
    /// For the next request, when it is still good.
    connection: Option<Connection>,
}

impl<'a> Group<'a> {
    fn new(
        context: RunContext<'a>,
        clients: &'a Clients,
        zone: &'a Zone,
        place: usize,
        name: String,
    ) -> Self {
        let rng = StdRng::seed_from_u64(seed_of(context.scenario.seed, &format!("{name} dice")));
        Self {
            context,
            clients,
            zone,
            values: ValueGenerator::new(clients.keys.dist, clients.keys.space),
            rng: Mutex::new(rng),
            newest: AtomicU64::new(context.newest),
            log: Mutex::new(Log { name, zone: place, ..Log::default() }),
        }
    }

    async fn drive_open(self, mut planned: mpsc::Receiver<pacer::Due>) -> Log {
        let mut idle: Vec<Vec<Connection>> = self.zone.nodes.iter().map(|_| Vec::new()).collect();
        let mut under_way = FuturesUnordered::new();
        let mut is_open = true;
        let mut over = std::pin::pin!(self.context.over());
        while is_open || !under_way.is_empty() {
            tokio::select! {
                Some((node, connection)) = under_way.next(), if !under_way.is_empty() => {
                    let idle: &mut Vec<Connection> = &mut idle[node];
                    idle.extend(connection);
                }
                () = &mut over => break,
                due = planned.recv(), if is_open && under_way.len() < self.clients.connections => {
                    let Some(due) = due else { is_open = false; continue };
                    let nodes = self.zone.nodes.len();
                    let node = usize::try_from(due.number).unwrap_or_default() % nodes;
                    let kept = idle[node].pop();
                    let group = &self;
                    under_way.push(async move {
                        let sent = Instant::now();
                        group.log.lock().slip.record(sent.saturating_duration_since(due.planned));
                        (node, group.request(node, kept, due.planned).await)
                    });
                }
            }
        }
        drop(under_way);
        self.log.into_inner()
    }

    async fn drive_closed(self) -> Log {
        let users = futures::future::join_all((0..self.clients.users).map(|user| self.user(user)));
        tokio::select! {
            _ = users => {}
            () = self.context.over() => {}
        }
        self.log.into_inner()
    }

    /// Runs one user of a closed loop, until the end of the run.
    async fn user(&self, user: usize) {
        let end = self.context.start + self.context.scenario.length();
        let node = user % self.zone.nodes.len();
        let mut kept = None;
        tokio::time::sleep_until(self.context.start.into()).await;
        while Instant::now() < end && !self.context.stop.is_cancelled() {
            let before = self.log.lock().samples.len();
            kept = self.request(node, kept.take(), Instant::now()).await;
            let failed = self.log.lock().samples.get(before).is_some_and(|sample| !sample.ok);
            let mean = self.clients.think.0;
            let mut pause = mean.mul_f64(-(1.0 - self.rng.lock().random_range(0.0..1.0_f64)).ln());
            if failed {
                // A refused client must not retry at once.
                pause = pause.max(PAUSE_MIN);
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Sends one request and records its result; returns the connection if it is still usable.
    async fn request(
        &self,
        node: usize,
        kept: Option<Connection>,
        planned: Instant,
    ) -> Option<Connection> {
        let endpoint = &self.zone.nodes[node];
        let since = planned.saturating_duration_since(self.context.start);
        let request = self.prepare(endpoint, since);
        let sent = Instant::now();
        let deadline = planned.max(sent) + self.clients.timeout.0;
        let end = send(endpoint, kept, &request, deadline).await;
        let answered = Instant::now();
        let (latency, service) = (answered - planned.min(answered), answered - sent);
        self.book(
            &request,
            Sample { op: request.op, planned: since, latency, service, ok: end.outcome.is_ok() },
            &end,
        );
        end.connection
    }

    fn prepare(&self, endpoint: &Endpoint, planned: Duration) -> Request {
        let mut rng = self.rng.lock();
        let op = Op::draw(&self.clients.mix, &mut rng);
        let key = self.values.next(&mut rng);
        // In an empty chain the first link is requested, which does not exist yet.
        let newest = self.newest.load(Ordering::Relaxed).max(1);
        let host = &endpoint.host;
        let (number, bytes) = match op {
            Op::Write => {
                let size = self.clients.value.next(&mut rng);
                let mut log = self.log.lock();
                let number = log.results.len();
                // Until it is decided; what ends the run early leaves it so.
                log.results.push(WriteResult::Unknown);
                log.writes.push(Write { planned });
                (number, write_bytes(host, self.context.run, &log.name, number, key, size))
            }
            Op::ReadLocal => (0, get(host, &format!("/v1/chain/{}", behind(newest, key)))),
            Op::ReadSession => {
                let path = format!("/v1/chain/{}?at_least={newest}", behind(newest, key));
                (0, get(host, &path))
            }
            Op::ReadLinear => (0, get(host, "/v1/chain/head?linearizable=true")),
        };
        Request { op, number, bytes }
    }

    fn book(&self, request: &Request, sample: Sample, end: &End) {
        let mut log = self.log.lock();
        log.samples.push(sample);
        log.retries += end.attempts - 1;
        let progress = self.context.progress;
        let counter = if sample.ok { &progress.ok } else { &progress.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        match &end.outcome {
            Ok(id) => {
                if request.op == Op::Write {
                    log.results[request.number] = WriteResult::Written(*id);
                    self.newest.fetch_max(*id, Ordering::Relaxed);
                }
                for (part, ms) in parse_timing(end.timing.as_deref().unwrap_or_default()) {
                    if log.timing.contains_key(part) || log.timing.len() < PARTS_MAX {
                        let entry = log.timing.entry(part.to_owned()).or_default();
                        *entry = (entry.0 + ms, entry.1 + 1);
                    }
                }
            }
            Err(Failure { result, kind }) => {
                if request.op == Op::Write {
                    log.results[request.number] = *result;
                }
                let is_new = !log.failures.contains_key(kind);
                let kind = if is_new && log.failures.len() >= KINDS_MAX { "other" } else { kind };
                *log.failures.entry(kind.to_owned()).or_default() += 1;
            }
        }
    }
}

/// The id to read: `key` links behind the newest.
pub fn behind(newest: u64, key: u64) -> u64 {
    newest.saturating_sub(key).max(1)
}

/// The payload of a write, which names it.
pub fn payload(run: &str, name: &str, number: usize, key: u64, size: usize) -> String {
    let mut payload =
        format!(r#"{{"run":"{run}","zone":"{name}","n":{number},"key":{key},"pad":""#);
    let pad = size.saturating_sub(payload.len() + 2);
    payload.extend(std::iter::repeat_n('x', pad));
    payload.push_str("\"}");
    payload
}

/// The bytes of a write: its key and its payload name it.
fn write_bytes(host: &str, run: &str, name: &str, number: usize, key: u64, size: usize) -> Vec<u8> {
    let body = format!(r#"{{"payload":{}}}"#, payload(run, name, number, key, size));
    let key = format!("{run}-{name}-{number}");
    post(host, "/v1/chain", "application/json", Some(&key), body.as_bytes())
}

/// Sends until the request is decided or its time is over.
async fn send(
    endpoint: &Endpoint,
    mut kept: Option<Connection>,
    request: &Request,
    deadline: Instant,
) -> End {
    let mut end = End {
        outcome: Err(Failure {
            result: WriteResult::Unknown,
            kind: "no answer in time".to_owned(),
        }),
        attempts: 0,
        timing: None,
        connection: None,
    };
    let mut pause = PAUSE_MIN;
    loop {
        let was_kept = kept.is_some();
        end.attempts += 1;
        let attempt = attempt(endpoint, kept.take(), request);
        let Ok(tried) = tokio::time::timeout_at(deadline.into(), attempt).await else {
            return end;
        };
        match tried {
            Ok((outcome, timing, connection)) => {
                let decided =
                    !matches!(&outcome, Err(failure) if failure.result == WriteResult::Unknown);
                end = End { outcome, timing, connection, ..end };
                if decided {
                    return end;
                }
                kept = end.connection.take();
            }
            Err(error) => {
                let kind = format!("broken: {}", error.kind());
                end.outcome = Err(Failure { result: WriteResult::Unknown, kind });
                if was_kept && end.attempts == 1 {
                    // The node may have closed it while it was idle.
                    continue;
                }
            }
        }
        if Instant::now() + pause >= deadline {
            return end;
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

type Tried = (Result<u64, Failure>, Option<String>, Option<Connection>);

async fn attempt(
    endpoint: &Endpoint,
    kept: Option<Connection>,
    request: &Request,
) -> std::io::Result<Tried> {
    let mut connection = match kept {
        Some(kept) => kept,
        None => Connection::open(endpoint.address).await?,
    };
    let answer = connection.exchange(&request.bytes).await?;
    let outcome = match request.op {
        Op::Write => classify(answer.status, answer.body),
        _ if answer.status == 200 => Ok(0),
        _ => classify(answer.status, answer.body).and(Ok(0)),
    };
    let (timing, closes) = (answer.timing.map(str::to_owned), answer.closes);
    Ok((outcome, timing, (!closes).then_some(connection)))
}

/// Parts of a `Server-Timing` value, in ms.
fn parse_timing(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.split(',').filter_map(|part| {
        let mut scenario_values = part.split(';').map(str::trim);
        let name = scenario_values.next().filter(|name| !name.is_empty())?;
        let ms = scenario_values.find_map(|word| word.strip_prefix("dur="))?.parse().ok()?;
        Some((name, ms))
    })
}

#[cfg(test)]
mod tests {
    use super::{behind, parse_timing};

    #[test]
    fn the_servers_own_times_are_read_part_by_part() {
        let parts: Vec<_> =
            parse_timing("queue;dur=0.2, quorum;desc=\"x\";dur=69.8, odd").collect();
        assert_eq!(parts, [("queue", 0.2), ("quorum", 69.8)]);
        assert_eq!(parse_timing("").count(), 0);
    }

    #[test]
    fn reads_stay_inside_the_chain() {
        assert_eq!([behind(10, 0), behind(10, 3), behind(10, 99), behind(0, 0)], [10, 7, 1, 1]);
    }
}
