//! Load generation: open and closed clients in every zone, over any [`Transport`], and a record of
//! every request.
//!
//! Latency counts from the planned time of an open client and from the sending of a closed one.
//! Every write has an idempotency key and is sent again under it until it is decided or its time is
//! over. Invariant: every sent write has exactly one record and exactly one result.
//!
//! In virtual time the same seed gives the same record, so every `select!` is biased.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as StdInstant};

use futures::future::join_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::plan::{Curve, Times, seed_of};
use super::scenario::{Clients, Mix, Scenario};
use super::scenario_values::ValueGenerator;
use crate::load::{End, Failure, Log, Op, Progress, Sample, WriteResult};
use crate::pacer::{self, Due, Lane};
use crate::transport::{Ask, Reply, Transport};

/// Requests of one group that may wait for a free connection; more are dropped and counted.
const BACKLOG_MAX: usize = 8_192;

/// Time between the making of the plan and its first request.
pub const LEAD: Duration = Duration::from_millis(50);

/// First pause before a request is sent again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a request is sent again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time for answers to what is under way when a run is stopped early.
pub const GRACE: Duration = Duration::from_secs(5);

/// Data shared by all groups.
#[derive(Debug, Clone, Copy)]
pub struct RunContext<'a> {
    /// The zones by their names, in the order of the transport.
    pub zones: &'a [String],
    /// The scenario to run.
    pub scenario: &'a Scenario,
    /// Name of the run: at most 32 visible ASCII characters without `"` and `\`.
    pub run: &'a str,
    /// Newest id when it began.
    pub newest: u64,
    /// The start of the warm-up.
    pub start: StdInstant,
    /// Counts.
    pub progress: &'a Progress,
    /// Ends the sending early. A write without an answer after [`GRACE`] stays unknown.
    pub stop: &'a CancellationToken,
}

impl RunContext<'_> {
    /// Ends when a run that is stopped early waits for no more answers.
    async fn over(&self) {
        self.stop.cancelled().await;
        sleep(GRACE).await;
    }
}

/// Sends everything and returns the logs, group by group and the open ones first; when the run was
/// stopped early, also the time from its start until then.
pub async fn drive<T: Transport>(
    context: RunContext<'_>,
    transport: &T,
) -> (Vec<Log>, Option<Duration>) {
    let scenario = context.scenario;
    let (mut lanes, mut open, mut closed) = (Vec::new(), Vec::new(), Vec::new());
    for (number, clients) in scenario.clients.iter().enumerate() {
        for (zone, name) in context.zones.iter().enumerate() {
            if clients.zone != "*" && clients.zone != *name {
                continue;
            }
            let group = Group::new(context, transport, clients, zone, number);
            let Some(arrival) = clients.open() else {
                closed.push(group.drive_closed());
                continue;
            };
            let curve = Curve::new(clients.rate, name, scenario);
            let seed = seed_of(scenario.seed, &group.log.lock().name);
            let times = Times::new(curve, arrival, scenario.length(), seed);
            let (lane, due) = Lane::new(times, BACKLOG_MAX);
            lanes.push(lane);
            open.push(group.drive_open(due));
        }
    }
    let pacing = transport.pace(context.start, lanes, context.stop);
    let driving = async { tokio::join!(biased; pacing, join_all(open), join_all(closed)) };
    let mut driving = std::pin::pin!(driving);
    let ((paced, mut logs, others), cut) = tokio::select! {
        biased;
        ended = &mut driving => (ended, None),
        () = context.stop.cancelled() => {
            let cut = Instant::from_std(context.start).elapsed();
            (driving.await, Some(cut))
        }
    };
    for (log, paced) in logs.iter_mut().zip(paced) {
        log.dropped = paced.dropped;
    }
    logs.extend(others);
    (logs, cut)
}

/// One client group in one zone while it runs.
struct Group<'a, T> {
    context: RunContext<'a>,
    transport: &'a T,
    clients: &'a Clients,
    zone: usize,
    values: ValueGenerator,
    rng: Mutex<StdRng>,
    /// Newest id that this group wrote or saw.
    newest: AtomicU64,
    log: Mutex<Log>,
}

impl<'a, T: Transport> Group<'a, T> {
    fn new(
        context: RunContext<'a>,
        transport: &'a T,
        clients: &'a Clients,
        zone: usize,
        number: usize,
    ) -> Self {
        let name = format!("{}/{number}", context.zones[zone]);
        let rng = StdRng::seed_from_u64(seed_of(context.scenario.seed, &format!("{name} dice")));
        Self {
            context,
            transport,
            clients,
            zone,
            values: ValueGenerator::new(clients.keys.dist, clients.keys.space),
            rng: Mutex::new(rng),
            newest: AtomicU64::new(context.newest),
            log: Mutex::new(Log { name, zone, ..Log::default() }),
        }
    }

    async fn drive_open(self, due: mpsc::Receiver<Due>) -> Log {
        let group = &self;
        let sending = pacer::each(due, self.clients.connections, async |due: Due| {
            let slip = Instant::now().into_std().saturating_duration_since(due.planned);
            group.log.lock().slip.record(slip);
            let nodes = group.transport.nodes(group.zone);
            let node = usize::try_from(due.number).unwrap_or_default() % nodes;
            group.request(node, due.planned.into()).await;
        });
        tokio::select! {
            biased;
            () = sending => {}
            () = self.context.over() => {}
        }
        self.log.into_inner()
    }

    async fn drive_closed(self) -> Log {
        let users = join_all((0..self.clients.users).map(|user| self.user(user)));
        tokio::select! {
            biased;
            _ = users => {}
            () = self.context.over() => {}
        }
        self.log.into_inner()
    }

    /// Runs one user of a closed loop, until the end of the run.
    async fn user(&self, user: usize) {
        let start = Instant::from_std(self.context.start);
        let end = start + self.context.scenario.length();
        let node = user % self.transport.nodes(self.zone);
        self.transport.sleep_until(start).await;
        while Instant::now() < end && !self.context.stop.is_cancelled() {
            let ok = self.request(node, Instant::now()).await;
            let mean = self.clients.think.0;
            let mut pause = mean.mul_f64(-(1.0 - self.rng.lock().random_range(0.0..1.0_f64)).ln());
            if !ok {
                // A refused client must not retry at once.
                pause = pause.max(PAUSE_MIN);
            }
            if !pause.is_zero() {
                self.transport.sleep_until(Instant::now() + pause).await;
            }
        }
    }

    /// Sends one request and records its result; returns whether it was answered as asked.
    async fn request(&self, node: usize, planned: Instant) -> bool {
        let since = planned.saturating_duration_since(self.context.start.into());
        let (op, number, ask) = self.choose(since);
        let request = self.transport.prepare(self.zone, node, ask);
        let sent = Instant::now();
        let deadline = planned.max(sent) + self.clients.timeout.0;
        let end = self.send(node, &request, deadline).await;
        let answered = Instant::now();
        let (latency, service) = (answered - planned.min(answered), answered - sent);
        let ok = end.outcome.is_ok();
        if let (Op::Write, Ok(id)) = (op, &end.outcome) {
            self.newest.fetch_max(*id, Ordering::Relaxed);
        }
        let sample = Sample { op, planned: since, latency, service, ok };
        self.log.lock().close(number, sample, end);
        self.context.progress.count(ok);
        ok
    }

    /// Chooses a request, and enters it if it is a write; its number is that of the write.
    fn choose(&self, planned: Duration) -> (Op, usize, Ask) {
        let mut rng = self.rng.lock();
        let op = draw(&self.clients.mix, &mut rng);
        let key = self.values.next(&mut rng);
        // In an empty chain the first link is requested, which does not exist yet.
        let newest = self.newest.load(Ordering::Relaxed).max(1);
        let (number, ask) = match op {
            Op::Write => {
                let size = self.clients.value.next(&mut rng);
                let mut log = self.log.lock();
                let number = log.enter(planned);
                let (run, name) = (self.context.run, &log.name);
                let payload = payload(run, name, number, key, size);
                (number, Ask::Write { key: format!("{run}-{name}-{number}"), payload })
            }
            Op::ReadLocal => (0, Ask::Read { id: behind(newest, key), at_least: 0 }),
            Op::ReadSession => (0, Ask::Read { id: behind(newest, key), at_least: newest }),
            Op::ReadLinear => (0, Ask::Newest),
        };
        (op, number, ask)
    }

    /// Sends until the request is decided or its time is over.
    async fn send(&self, node: usize, request: &T::Request, deadline: Instant) -> End {
        let outcome = Err(Failure::unknown("no answer in time".to_owned()));
        let mut end = End { outcome, attempts: 0, timing: None };
        let mut pause = PAUSE_MIN;
        loop {
            end.attempts += 1;
            let exchange = self.transport.exchange(self.zone, node, request, deadline);
            let Ok(reply) = timeout_at(deadline, exchange).await else { return end };
            let Reply { outcome, timing, was_stale } = reply;
            let is_open =
                matches!(&outcome, Err(failure) if failure.result == WriteResult::Unknown);
            (end.outcome, end.timing) = (outcome, timing);
            if !is_open {
                return end;
            }
            if was_stale && end.attempts == 1 {
                continue;
            }
            if Instant::now() + pause >= deadline {
                return end;
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }
}

/// Draws a kind of request by its share.
fn draw(mix: &Mix, rng: &mut StdRng) -> Op {
    let shares = [mix.write, mix.read_local, mix.read_session, mix.read_linear];
    let mut drawn = rng.random_range(0.0..shares.iter().sum::<f64>());
    let op = Op::ALL.into_iter().zip(shares).find(|(_, share)| {
        drawn -= share;
        drawn < 0.0
    });
    op.map_or(Op::Write, |(op, _)| op)
}

/// The id to read: `key` links behind the newest.
fn behind(newest: u64, key: u64) -> u64 {
    newest.saturating_sub(key).max(1)
}

/// The payload of a write, which names it.
fn payload(run: &str, name: &str, number: usize, key: u64, size: usize) -> String {
    let mut payload =
        format!(r#"{{"run":"{run}","zone":"{name}","n":{number},"key":{key},"pad":""#);
    let pad = size.saturating_sub(payload.len() + 2);
    payload.extend(std::iter::repeat_n('x', pad));
    payload.push_str("\"}");
    payload
}

#[cfg(test)]
mod tests {
    use super::behind;

    #[test]
    fn reads_stay_inside_the_chain() {
        assert_eq!([behind(10, 0), behind(10, 3), behind(10, 99), behind(0, 0)], [10, 7, 1, 1]);
    }
}
