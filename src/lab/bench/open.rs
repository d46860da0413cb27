//! Open-loop clients: they send at planned times, whatever became of what they sent before, and
//! latency counts from the plan. A server that stalls cannot hide it by stalling its client.
//!
//! [`alone`] is one connection. [`Crowd`] is many over all zones, and notes what happened when.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::closed::{Outcome, Tally, Window};
use super::measure::single_request;
use crate::histogram::Latencies;
use crate::pacer::{self, Arrival, Due, Lane};
use crate::pool::{Broken, Pool};
use crate::run::plan::{Curve, Times};
use crate::target::{Target, Zone};

/// Sends of one client that may be overdue; more are dropped, and the client then has failed.
const OVERDUE_MAX: usize = 1_024;

/// How long after the window one client may still work off what is overdue.
const LATE_MAX: Duration = Duration::from_secs(5);

/// Longest wait for an answer; a write without one by then is a failure.
const ANSWER_MAX: Duration = Duration::from_secs(30);

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
    let (start, stop) = (Instant::now(), CancellationToken::new());
    let length = window.end().saturating_duration_since(start);
    let (lane, mut due) = Lane::new(evenly(rate, length, 0), OVERDUE_MAX);
    let mut tally = Tally { seconds: window.seconds(), ..Tally::default() };
    let working = async {
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
                Outcome::Refused(_, reason) => tally.fail(reason),
            }
        }
        anyhow::Ok(())
    };
    let pacing = async { Ok(pacer::pace(start, vec![lane], &stop).await) };
    let ((), paced) = tokio::try_join!(working, pacing)?;
    anyhow::ensure!(
        paced[0].dropped == 0,
        "one client was over {OVERDUE_MAX} sends behind its plan"
    );
    Ok(tally)
}

/// Planned times of the zone at `place`: zones shall not send all at once.
fn evenly(rate: f64, length: Duration, place: usize) -> Times {
    Times::new(Curve::even(rate), Arrival::Uniform, length, place as u64)
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
    /// All writes: as units those acknowledged after the warm-up and before the last write was
    /// planned, and the latencies of all that were acknowledged.
    pub(super) tally: Tally,
    /// Slots of [`SLOT`] by the planned time, from the start.
    pub(super) slots: Vec<Slot>,
    /// Writes that were due.
    pub(super) planned: u64,
    /// Planned writes that were not sent, because all connections were busy and the queue was full.
    pub(super) dropped: u64,
}

impl Crowd {
    /// Drives all zones of `target` until every planned write is answered or `stop` is cancelled,
    /// after which nothing new is sent.
    ///
    /// # Errors
    /// When a node cannot be reached at the start. Later failures are counted.
    pub(super) async fn drive(
        self,
        target: &Target,
        stop: &CancellationToken,
    ) -> anyhow::Result<Seen> {
        let mut zones = Vec::new();
        for zone in &target.zones {
            zones.push(self.connect(zone).await?);
        }
        let start = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "zones are few")]
        let rate = self.rate / zones.len() as f64;
        // All writes are one task; a histogram for each connection would take gigabytes.
        let seen = Mutex::new(Seen::default());
        let (mut lanes, mut writing) = (Vec::new(), Vec::new());
        for (place, nodes) in zones.iter().enumerate() {
            // A long queue here would only show its own waiting.
            let (lane, due) =
                Lane::new(evenly(rate, self.length, place), (self.connections / 8).max(1));
            lanes.push(lane);
            let seen = &seen;
            writing.push(pacer::each(due, self.connections, move |due| async move {
                let node = usize::try_from(due.number).unwrap_or_default() % nodes.len();
                let failure = write(&nodes[node]).await.err();
                self.note(&mut seen.lock(), start, due.planned, failure);
            }));
        }
        let (paced, _) = tokio::join!(pacer::pace(start, lanes, stop), join_all(writing));
        let mut seen = seen.into_inner();
        seen.tally.seconds = (self.length - self.warm_up).as_secs_f64();
        seen.slots.iter().for_each(|slot| seen.tally.latencies.merge(&slot.latencies));
        seen.planned = paced.iter().map(|lane| lane.planned).sum();
        seen.dropped = paced.iter().map(|lane| lane.dropped).sum();
        Ok(seen)
    }

    /// Opens the connections to a zone's nodes.
    async fn connect(self, zone: &Zone) -> anyhow::Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for (place, node) in zone.nodes.iter().enumerate() {
            let pool = Pool::new(node.address);
            let count = self.connections.saturating_sub(place).div_ceil(zone.nodes.len());
            let filled = pool.fill(count).await;
            filled.with_context(|| format!("cannot reach http://{}", node.host))?;
            nodes.push(Node { pool, request: single_request(node, self.payload_bytes) });
        }
        Ok(nodes)
    }

    fn note(self, seen: &mut Seen, start: Instant, planned: Instant, failure: Option<String>) {
        let now = Instant::now();
        let place = planned.saturating_duration_since(start).as_nanos() / SLOT.as_nanos();
        let place = usize::try_from(place).unwrap_or_default();
        if seen.slots.len() <= place {
            seen.slots.resize_with(place + 1, Slot::default);
        }
        let slot = &mut seen.slots[place];
        match failure {
            None => {
                slot.latencies.record(now - planned);
                let in_time = (start + self.warm_up..=start + self.length).contains(&now);
                seen.tally.units += f64::from(u8::from(in_time));
            }
            Some(reason) => {
                slot.failures += 1;
                seen.tally.fail(reason);
            }
        }
    }
}

/// An API node with the bytes of a write to it.
struct Node {
    pool: Pool,
    request: Vec<u8>,
}

/// Writes once; the error is a line for a report.
async fn write(node: &Node) -> Result<(), String> {
    let exchange = node.pool.exchange(&node.request, |answer| answer.status);
    match timeout(ANSWER_MAX, exchange).await {
        Ok(Ok(200 | 201)) => Ok(()),
        Ok(Ok(status)) => Err(format!("answered {status}")),
        Ok(Err(Broken { error, .. })) => Err(format!("broken: {error}")),
        Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use pghc_runtime::task::Tasks;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

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

    async fn drive(answer: Option<&'static str>, stop: &CancellationToken) -> Seen {
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
            let seen = drive(answer, &CancellationToken::new()).await;
            let written: u64 = seen.slots.iter().map(|slot| slot.latencies.count()).sum();
            let failed: u64 = seen.slots.iter().map(|slot| slot.failures).sum();
            assert_eq!(seen.planned, 300, "{answer:?}");
            assert_eq!(written + failed + seen.dropped, seen.planned, "{answer:?}");
            assert_eq!(failed, seen.tally.failures);
            assert_eq!(written, seen.tally.latencies.count());
            assert!(seen.slots.len() <= 3, "600 ms are three slots");
            let is_good = answer == Some("201 Created");
            assert_eq!((written > 0, failed > 0), (is_good, !is_good), "{:?}", seen.tally);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_crowd_that_is_told_to_stop_plans_nothing_new() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(drive(Some("201 Created"), &stop).await.planned, 0);
    }
}
