//! Clients in virtual time: the plan, mix, retries and books of [`pghc_lab::run::drive`], with
//! calls of an API node's service in place of HTTP.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pghc_lab::load::{Failure, WriteResult};
use pghc_lab::pacer::Arrival;
use pghc_lab::run::drive::{
    BACKLOG_MAX, KINDS_MAX, Log, Op, PAUSE_MAX, PAUSE_MIN, Progress, Sample, Write, behind, payload,
};
use pghc_lab::run::plan::{Curve, Times, seed_of};
use pghc_lab::run::scenario::{Clients, Scenario};
use pghc_lab::run::scenario_values::ValueGenerator;
use pghc_runtime::task;
use pghc_sim::{Answer, Ask, Parade, clock};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Data shared by all groups.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) parade: Parade,
    pub(super) scenario: Arc<Scenario>,
    /// Name of the run, in keys and payloads.
    pub(super) run: String,
    /// The start of the warm-up.
    pub(super) start: Instant,
    pub(super) progress: Arc<Progress>,
    /// Ends the sending early; set in real time, by a person.
    pub(super) stop: CancellationToken,
    /// When that was noticed, from the start of the warm-up.
    pub(super) cut: Arc<OnceLock<Duration>>,
}

impl Ground {
    fn is_stopped(&self) -> bool {
        let is_stopped = self.stop.is_cancelled();
        if is_stopped {
            self.cut.get_or_init(|| self.start.elapsed());
        }
        is_stopped
    }
}

/// One group of clients in one zone.
pub(super) struct Group {
    ground: Ground,
    clients: Clients,
    zone: usize,
    zone_name: String,
    values: ValueGenerator,
    rng: Mutex<StdRng>,
    /// Newest id that this group wrote or saw.
    newest: AtomicU64,
    log: Mutex<Log>,
}

impl Group {
    /// The groups of the scenario: open ones first, as their logs are in a real run.
    pub(super) fn all(ground: &Ground, zones: &[String]) -> Vec<Arc<Self>> {
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        for (number, clients) in ground.scenario.clients.iter().enumerate() {
            for (place, zone) in zones.iter().enumerate() {
                if clients.zone == "*" || clients.zone == *zone {
                    let group = Self::new(ground, clients, (place, zone), number);
                    let list = if clients.open().is_some() { &mut open } else { &mut closed };
                    list.push(Arc::new(group));
                }
            }
        }
        open.append(&mut closed);
        open
    }

    fn new(
        ground: &Ground,
        clients: &Clients,
        (zone, zone_name): (usize, &str),
        number: usize,
    ) -> Self {
        let name = format!("{zone_name}/{number}");
        let seed = seed_of(ground.scenario.seed, &format!("{name} dice"));
        Self {
            ground: ground.clone(),
            clients: clients.clone(),
            zone,
            zone_name: zone_name.to_owned(),
            values: ValueGenerator::new(clients.keys.dist, clients.keys.space),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            newest: AtomicU64::new(0),
            log: Mutex::new(Log { name, zone, ..Log::default() }),
        }
    }

    /// The log, when all is done.
    pub(super) fn take_log(&self) -> Log {
        std::mem::take(&mut self.log.lock())
    }

    /// Sends everything and waits for every answer.
    pub(super) async fn drive(self: Arc<Self>) {
        match self.clients.open() {
            Some(arrival) => self.drive_open(arrival).await,
            None => self.drive_closed().await,
        }
    }

    async fn drive_open(self: Arc<Self>, arrival: Arrival) {
        let scenario = &self.ground.scenario;
        let curve = Curve::new(self.clients.rate, &self.zone_name, scenario);
        let seed = seed_of(scenario.seed, &self.log.lock().name);
        let connections = Arc::new(Semaphore::new(self.clients.connections));
        let (tracker, nodes) = (TaskTracker::new(), scenario.cluster.api_nodes);
        for (number, planned) in Times::new(curve, arrival, scenario.length(), seed).enumerate() {
            clock::sleep_until(self.ground.start + planned).await;
            if self.ground.is_stopped() {
                break;
            }
            if tracker.len() >= self.clients.connections + BACKLOG_MAX {
                self.log.lock().dropped += 1;
                continue;
            }
            let (group, connections) = (Arc::clone(&self), Arc::clone(&connections));
            drop(task::spawn(tracker.track_future(async move {
                // The semaphore is never closed.
                let _connection = connections.acquire().await;
                group.request(number % nodes, group.ground.start + planned).await;
            })));
        }
        tracker.close();
        tracker.wait().await;
    }

    async fn drive_closed(self: Arc<Self>) {
        let tracker = TaskTracker::new();
        for user in 0..self.clients.users {
            drop(task::spawn(tracker.track_future(Arc::clone(&self).user(user))));
        }
        tracker.close();
        tracker.wait().await;
    }

    /// Runs one user of a closed loop, until the end of the run.
    async fn user(self: Arc<Self>, user: usize) {
        let end = self.ground.start + self.ground.scenario.length();
        let node = user % self.ground.scenario.cluster.api_nodes;
        clock::sleep_until(self.ground.start).await;
        while Instant::now() < end && !self.ground.is_stopped() {
            let ok = self.request(node, Instant::now()).await;
            let mean = self.clients.think.0;
            let mut pause = mean.mul_f64(-(1.0 - self.rng.lock().random_range(0.0..1.0_f64)).ln());
            if !ok {
                // A refused client must not retry at once.
                pause = pause.max(PAUSE_MIN);
            }
            if !pause.is_zero() {
                clock::sleep_until(Instant::now() + pause).await;
            }
        }
    }

    /// Sends one request and records its result; returns whether the request succeeded.
    async fn request(&self, node: usize, planned: Instant) -> bool {
        let since = planned.saturating_duration_since(self.ground.start);
        let (op, number, ask) = self.prepare(since);
        let sent = Instant::now();
        let deadline = planned.max(sent) + self.clients.timeout.0;
        let (outcome, attempts) = self.send(node, &ask, deadline).await;
        let answered = Instant::now();
        let ok = outcome.is_ok();
        let (latency, service) = (answered - planned.min(answered), answered - sent);
        let sample = Sample { op, planned: since, latency, service, ok };
        self.book(number, sample, outcome, attempts);
        ok
    }

    fn prepare(&self, planned: Duration) -> (Op, usize, Ask) {
        let mut rng = self.rng.lock();
        let op = Op::draw(&self.clients.mix, &mut rng);
        let key = self.values.next(&mut rng);
        let newest = self.newest.load(Ordering::Relaxed).max(1);
        match op {
            Op::Write => {
                let size = self.clients.value.next(&mut rng);
                let mut log = self.log.lock();
                let number = log.results.len();
                // Until it is decided; what ends the run early leaves it so.
                log.results.push(WriteResult::Unknown);
                log.writes.push(Write { planned });
                let run = &self.ground.run;
                let payload = Bytes::from(payload(run, &log.name, number, key, size));
                let key = format!("{run}-{}-{number}", log.name);
                (op, number, Ask::Write { key, payload })
            }
            Op::ReadLocal => (op, 0, Ask::Read { id: behind(newest, key), at_least: 0 }),
            Op::ReadSession => (op, 0, Ask::Read { id: behind(newest, key), at_least: newest }),
            Op::ReadLinear => (op, 0, Ask::Newest),
        }
    }

    /// Sends until the request is decided or its time is over; returns how often, too.
    async fn send(&self, node: usize, ask: &Ask, deadline: Instant) -> (Result<u64, Failure>, u64) {
        let unknown = |kind: String| Err(Failure { result: WriteResult::Unknown, kind });
        let mut outcome = unknown("no answer in time".to_owned());
        let (mut pause, mut attempts) = (PAUSE_MIN, 0);
        loop {
            attempts += 1;
            let asked = self.ground.parade.ask(self.zone, node, ask.clone(), deadline);
            let Ok(answer) = timeout_at(deadline, asked).await else { return (outcome, attempts) };
            match answer {
                Answer::Written { id, order, apply } => {
                    self.time([("order", order), ("apply", apply)]);
                    return (Ok(id), attempts);
                }
                Answer::Read(frontier) => return (Ok(frontier), attempts),
                Answer::Refused(kind) => {
                    return (Err(Failure { result: WriteResult::Refused, kind }), attempts);
                }
                Answer::Failed(kind) => outcome = unknown(kind),
            }
            if Instant::now() + pause >= deadline {
                return (outcome, attempts);
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Books parts of the node's own time, as `Server-Timing` tells them of real ones.
    fn time(&self, parts: [(&str, Duration); 2]) {
        let mut log = self.log.lock();
        for (part, spent) in parts {
            let entry = log.timing.entry(part.to_owned()).or_default();
            *entry = (entry.0 + spent.as_secs_f64() * 1e3, entry.1 + 1);
        }
    }

    fn book(&self, number: usize, sample: Sample, outcome: Result<u64, Failure>, attempts: u64) {
        let mut log = self.log.lock();
        log.samples.push(sample);
        log.retries += attempts - 1;
        let progress = &self.ground.progress;
        let counter = if sample.ok { &progress.ok } else { &progress.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(id) if sample.op == Op::Write => {
                log.results[number] = WriteResult::Written(id);
                self.newest.fetch_max(id, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(Failure { result, kind }) => {
                if sample.op == Op::Write {
                    log.results[number] = result;
                }
                let is_new = !log.failures.contains_key(&kind);
                let is_full = is_new && log.failures.len() >= KINDS_MAX;
                let kind = if is_full { "other".to_owned() } else { kind };
                *log.failures.entry(kind).or_default() += 1;
            }
        }
    }
}
