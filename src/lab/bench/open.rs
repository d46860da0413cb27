//! Open-loop clients: they send at planned times, whatever became of what they sent before, and
//! latency counts from the plan. A server that stalls cannot hide it by stalling its client.
//!
//! [`alone`] is one connection. [`Crowd`] is many over all zones, and notes what happened when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use tokio::sync::{Mutex, mpsc};

use super::closed::{Outcome, Tally, Window};
use super::measure::payload;
use crate::client::{Connection, post};
use crate::histogram::Latencies;
use crate::pacer::{self, Arrival, Due, Lane, Plan};
use crate::target::{Endpoint, Target};

/// Sends of one client that may be overdue; more are dropped, and the client then has failed.
const OVERDUE_MAX: usize = 1_024;

/// How long after the window one client may still work off what is overdue.
const LATE_MAX: Duration = Duration::from_secs(5);

/// Longest wait for an answer; a write without one by then is a failure.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Ends the pacer's thread when its run is over or given up.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Repeats `operation` on one connection, `rate` times a second, until the window ends. Only
/// operations planned inside the window count. Operations still overdue 5 s after the window count
/// as failed, with their latency at that time.
///
/// # Errors
/// Errors of the operation, and sends dropped because the client was too far behind: their latency
/// is unknown, and leaving them out would distort the result.
pub(super) async fn alone(
    rate: f64,
    window: Window,
    mut operation: impl AsyncFnMut() -> anyhow::Result<Outcome>,
) -> anyhow::Result<Tally> {
    let start = Instant::now();
    let length = window.end().saturating_duration_since(start);
    let (sender, mut due) = mpsc::channel(OVERDUE_MAX);
    let plan = Plan::new(Arrival::Uniform, rate, length, 1, 0);
    let stop = StopOnDrop(Arc::default());
    let flag = Arc::clone(&stop.0);
    let pacing = tokio::task::spawn_blocking(move || {
        pacer::run(start, vec![Lane { plan: Box::new(plan), sender }], &flag)
    });
    let mut tally = Tally { seconds: window.seconds(), ..Tally::default() };
    while let Some(Due { planned, .. }) = due.recv().await {
        let is_too_late = Instant::now() >= window.end() + LATE_MAX;
        let outcome = if is_too_late {
            tally.latencies.record(planned.elapsed());
            Outcome::Refused(0, format!("given up {LATE_MAX:?} after the end: too far behind"))
        } else {
            operation().await?
        };
        if planned < window.begin() {
            continue;
        }
        match outcome {
            Outcome::Done(_) => {
                tally.units += 1.0;
                tally.latencies.record(planned.elapsed());
            }
            Outcome::Refused(_, reason) => {
                tally.failures += 1;
                tally.first_failure.get_or_insert(reason);
            }
        }
    }
    let paced = pacing.await.context("the pacer panicked")?;
    let dropped: u64 = paced.iter().map(|paced| paced.dropped).sum();
    anyhow::ensure!(dropped == 0, "one client was over {OVERDUE_MAX} sends behind its plan");
    Ok(tally)
}

/// Time of one slot of a timeline.
pub(super) const SLOT: Duration = Duration::from_millis(250);

/// Writes that were planned in one slot of time.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    /// From the plan to the acknowledgement.
    pub(super) latencies: Latencies,
    /// Refused, broken off, or without an answer.
    pub(super) failures: u64,
}

/// Many clients over all zones that send at planned times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    /// Writes a second over all zones together.
    pub(super) rate: f64,
    /// Connections to each zone: the most that are under way there.
    pub(super) connections: usize,
    /// How long new writes are planned, the warm-up included.
    pub(super) length: Duration,
    /// How long from the start nothing counts as written in time: the first answers are still
    /// under way.
    pub(super) warm_up: Duration,
    /// Size of a payload.
    pub(super) payload_bytes: usize,
}

/// Results of an open loop with many connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Slots of [`SLOT`] by the planned time, from the start.
    pub(super) slots: Vec<Slot>,
    /// Acknowledged after the warm-up and before the last write was planned.
    pub(super) written_in_time: u64,
    /// Writes that were due.
    pub(super) planned: u64,
    /// Planned writes that were not sent, because all connections were busy and the queue was full.
    pub(super) dropped: u64,
    /// Sent, and refused or broken off.
    pub(super) failures: u64,
    /// The text of the first failure.
    pub(super) first_failure: Option<String>,
}

impl Seen {
    fn slot(&mut self, planned: Instant, start: Instant) -> &mut Slot {
        let place = planned.saturating_duration_since(start).as_nanos() / SLOT.as_nanos();
        let place = usize::try_from(place).unwrap_or_default();
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, Slot::default);
        }
        &mut self.slots[place]
    }
}

/// When a crowd began, was warm, and plans its last write.
#[derive(Debug, Clone, Copy)]
struct Term {
    start: Instant,
    warm: Instant,
    end: Instant,
}

impl Crowd {
    /// Drives all zones of `target` until every planned write is answered or `stop` is set, after
    /// which nothing new is sent.
    ///
    /// # Errors
    /// When a node cannot be reached at the start. Later failures are counted.
    pub(super) async fn drive(
        self,
        target: &Target,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Seen> {
        let stop = StopOnDrop(Arc::clone(stop));
        let mut zones = Vec::new();
        for zone in &target.zones {
            let nodes = (0..self.connections).map(|place| &zone.nodes[place % zone.nodes.len()]);
            let opened = join_all(nodes.map(async |node| {
                let connection = Connection::open(node.address).await;
                connection.with_context(|| format!("cannot reach http://{}", node.host))
            }));
            let opened: Vec<_> = opened.await.into_iter().collect::<Result<_, _>>()?;
            zones.push((zone, opened));
        }
        let start = Instant::now();
        let term = Term { start, warm: start + self.warm_up, end: start + self.length };
        #[expect(clippy::cast_precision_loss, reason = "zones are few")]
        let rate = self.rate / target.zones.len() as f64;
        // All workers are one task; a histogram for each would take gigabytes.
        let seen = parking_lot::Mutex::new(Seen::default());
        let (mut lanes, mut workers) = (Vec::new(), Vec::new());
        for (place, (zone, opened)) in zones.into_iter().enumerate() {
            // A long queue here would only show its own waiting.
            let (sender, due) = mpsc::channel((self.connections / 8).max(1));
            let plan = Plan::new(Arrival::Uniform, rate, self.length, 1, place);
            lanes.push(Lane { plan: Box::new(plan), sender });
            let due = Arc::new(Mutex::new(due));
            for (number, connection) in opened.into_iter().enumerate() {
                let node = &zone.nodes[number % zone.nodes.len()];
                let worker = Worker { node, term, payload_bytes: self.payload_bytes, seen: &seen };
                workers.push(worker.work(connection, Arc::clone(&due)));
            }
        }
        let flag = Arc::clone(&stop.0);
        let pacing = tokio::task::spawn_blocking(move || pacer::run(start, lanes, &flag));
        join_all(workers).await;
        let mut seen = seen.into_inner();
        let paced = pacing.await.context("the pacer panicked")?;
        seen.planned = paced.iter().map(|lane| lane.planned).sum();
        seen.dropped = paced.iter().map(|lane| lane.dropped).sum();
        Ok(seen)
    }
}

/// One connection of the open loop.
struct Worker<'a> {
    node: &'a Endpoint,
    term: Term,
    payload_bytes: usize,
    seen: &'a parking_lot::Mutex<Seen>,
}

impl Worker<'_> {
    /// Sends what is due over `connection`, and over a new one when that broke.
    async fn work(self, connection: Connection, due: Arc<Mutex<mpsc::Receiver<Due>>>) {
        let body = format!(r#"{{"payload":{}}}"#, payload(0, self.payload_bytes));
        let request = post(&self.node.host, "/v1/chain", "application/json", None, body.as_bytes());
        let mut kept = Some(connection);
        loop {
            let next = due.lock().await.recv().await;
            let Some(Due { planned, .. }) = next else { return };
            let exchanging = exchange(self.node, &mut kept, &request);
            let failure = match tokio::time::timeout(ANSWER_MAX, exchanging).await {
                Ok(Ok(200 | 201)) => None,
                Ok(Ok(status)) => Some(format!("answered {status}")),
                Ok(Err(error)) => Some(format!("broken: {error}")),
                Err(_) => Some(format!("no answer within {ANSWER_MAX:?}")),
            };
            if failure.as_ref().is_some_and(|reason| !reason.starts_with("answered")) {
                kept = None;
            }
            self.note(planned, failure);
        }
    }

    fn note(&self, planned: Instant, failure: Option<String>) {
        let (now, mut seen) = (Instant::now(), self.seen.lock());
        let slot = seen.slot(planned, self.term.start);
        match failure {
            None => {
                slot.latencies.record(now - planned);
                let in_time = (self.term.warm..=self.term.end).contains(&now);
                seen.written_in_time += u64::from(in_time);
            }
            Some(reason) => {
                slot.failures += 1;
                seen.failures += 1;
                seen.first_failure.get_or_insert(reason);
            }
        }
    }
}

async fn exchange(
    node: &Endpoint,
    kept: &mut Option<Connection>,
    request: &[u8],
) -> std::io::Result<u16> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open(node.address).await?),
    };
    let answer = connection.exchange(request).await?;
    let (status, closes) = (answer.status, answer.closes);
    if closes {
        *kept = None;
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use pghc_runtime::task::Tasks;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{Crowd, Seen, alone};
    use crate::bench::closed::{Outcome, Window};
    use crate::target::{Endpoint, Target, Zone};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stall_is_charged_to_writes_planned_meanwhile() {
        let window = Window::after(Duration::ZERO, Duration::from_millis(500));
        let (mut first, mut began) = (true, None);
        let tally = alone(200.0, window, async || {
            began.get_or_insert(Instant::now());
            if std::mem::take(&mut first) {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Ok(Outcome::Done(1))
        });
        let tally = tally.await.expect("nothing fails");
        // The plan begins when the client does, which is late on a busy machine.
        let left = began.map_or(Duration::ZERO, |at| window.end().saturating_duration_since(at));
        let planned = 200.0 * left.as_secs_f64();
        assert!((planned - 5.0..=101.0).contains(&tally.units), "{} of {planned}", tally.units);
        let summary = tally.latencies.summary();
        assert!(summary.p50_ms > 20.0 && summary.max_ms >= 290.0, "{summary:?}");
    }

    /// A zone whose node gives the same answer to every request; with `None` the node closes the
    /// connection.
    async fn zone_that_answers(answer: Option<&'static str>, tasks: &Tasks) -> Target {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let of_connections = tasks.clone();
        tasks.spawn("stand-in", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                of_connections.spawn("connection", async move {
                    let mut request = [0; 1_000];
                    // One request is one segment on loopback; the client sends no second request
                    // before the answer.
                    while matches!(stream.read(&mut request).await, Ok(1..)) {
                        let Some(answer) = answer else { return };
                        let head = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
                        if stream.write_all(head.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let nodes = vec![Endpoint { address, host: address.to_string() }];
        Target { zones: vec![Zone { name: "eu".to_owned(), dsn: String::new(), nodes }] }
    }

    async fn drive(answer: Option<&'static str>, stop: &Arc<AtomicBool>) -> Seen {
        let tasks = Tasks::default();
        let target = zone_that_answers(answer, &tasks).await;
        let length = Duration::from_millis(600);
        let warm_up = Duration::ZERO;
        let crowd = Crowd { rate: 500.0, connections: 64, length, warm_up, payload_bytes: 200 };
        let seen = crowd.drive(&target, stop).await.expect("the node can be reached");
        tasks.shut_down().await;
        seen
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_planned_write_of_a_crowd_is_written_refused_or_dropped() {
        for answer in [Some("201 Created"), Some("429 Too Many Requests"), None] {
            let seen = drive(answer, &Arc::default()).await;
            let written: u64 = seen.slots.iter().map(|slot| slot.latencies.count()).sum();
            let failed: u64 = seen.slots.iter().map(|slot| slot.failures).sum();
            assert_eq!(seen.planned, 300, "{answer:?}");
            assert_eq!(written + failed + seen.dropped, seen.planned, "{answer:?}");
            assert_eq!(failed, seen.failures);
            assert!(seen.slots.len() <= 3, "600 ms are three slots");
            let is_good = answer == Some("201 Created");
            assert_eq!((written > 0, failed > 0), (is_good, !is_good), "{:?}", seen.first_failure);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_crowd_that_is_told_to_stop_plans_nothing_new() {
        let stop = Arc::new(AtomicBool::new(false));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(drive(Some("201 Created"), &stop).await.planned, 0);
    }
}
