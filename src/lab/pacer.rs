//! The clock of an open-loop run: it calls each request at its planned time, whatever became of
//! the ones before.
//!
//! A thread of its own, because tokio's timers have a grain of 1 ms. Invariant: a planned request is either handed over or counted as dropped.

use std::str::FromStr;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use pghc_wan::wake_on_time;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longest time until it is noticed that a run is stopped.
const LOOK: Duration = Duration::from_millis(100);

/// How requests are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// Independent of each other, as many users are: exponential gaps.
    Poisson,
    /// Equal gaps.
    Uniform,
}

impl FromStr for Arrival {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poisson" => Ok(Self::Poisson),
            "uniform" => Ok(Self::Uniform),
            _ => Err(format!("{text:?} is neither `poisson` nor `uniform`")),
        }
    }
}

/// A request that is due.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Number of the request in its zone, from 0.
    pub number: u64,
    /// When it was planned.
    pub planned: Instant,
}

/// One zone of a run: its plan, the queue to its senders, and its counts.
pub struct Lane {
    plan: Box<dyn Iterator<Item = Duration> + Send>,
    sender: mpsc::Sender<Due>,
    paced: Paced,
}

impl Lane {
    /// A lane that sends at the times of `plan`, from the start of the run and in order, with the
    /// queue of what is due. A request that finds `backlog_max` waiting there is dropped.
    pub fn new(
        plan: impl Iterator<Item = Duration> + Send + 'static,
        backlog_max: usize,
    ) -> (Self, mpsc::Receiver<Due>) {
        let (sender, due) = mpsc::channel(backlog_max);
        (Self { plan: Box::new(plan), sender, paced: Paced::default() }, due)
    }

    /// The next planned time, from the start of the run.
    pub fn next_time(&mut self) -> Option<Duration> {
        self.plan.next()
    }

    /// Hands the request over that was planned at this time, or counts it as dropped.
    pub fn call(&mut self, planned: Instant) {
        let due = Due { number: self.paced.planned, planned };
        self.paced.planned += 1;
        self.paced.dropped += u64::from(self.sender.try_send(due).is_err());
    }

    /// The counts when the lane has ended.
    #[must_use]
    pub fn end(self) -> Paced {
        self.paced
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// Counts of a lane after the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paced {
    /// Requests that became due.
    pub planned: u64,
    /// Due requests that were dropped.
    pub dropped: u64,
}

/// Runs the plans of all lanes from `start` on. Blocks its thread; ends early when `stop` is
/// cancelled.
#[must_use]
pub fn run(start: Instant, lanes: Vec<Lane>, stop: &CancellationToken) -> Vec<Paced> {
    wake_on_time();
    let mut lanes: Vec<_> = lanes.into_iter().map(|mut lane| (lane.next_time(), lane)).collect();
    loop {
        let nearest = lanes.iter_mut().filter(|lane| lane.0.is_some()).min_by_key(|lane| lane.0);
        let Some((next, lane)) = nearest else { break };
        let planned = start + next.expect("lanes without a next request are filtered out");
        while !stop.is_cancelled() {
            let wait = planned.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            std::thread::sleep(wait.min(LOOK));
        }
        if stop.is_cancelled() {
            break;
        }
        lane.call(planned);
        *next = lane.next_time();
    }
    lanes.into_iter().map(|(_, lane)| lane.end()).collect()
}

/// Runs the plans as [`run`] does, on a thread of its own. The thread also ends when the future is
/// dropped.
///
/// # Panics
/// If a plan does.
pub async fn pace(start: Instant, lanes: Vec<Lane>, stop: &CancellationToken) -> Vec<Paced> {
    let stop = stop.child_token();
    let of_thread = stop.clone();
    let _ends_thread = stop.drop_guard();
    let pacing = tokio::task::spawn_blocking(move || run(start, lanes, &of_thread));
    pacing.await.expect("plans do not panic")
}

/// Does `act` for each request of a lane, `at_once` of them at a time at most. Ends when the lane
/// has ended and every request is done.
pub async fn each<F: Future<Output = ()>>(
    mut due: mpsc::Receiver<Due>,
    at_once: usize,
    act: impl FnMut(Due) -> F,
) {
    let due = futures::stream::poll_fn(move |context| due.poll_recv(context));
    due.for_each_concurrent(at_once, act).await;
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio_util::sync::CancellationToken;

    use super::{Lane, Paced, run};

    #[test]
    fn full_lane_drops_writes_without_delaying_others() {
        let length = Duration::from_millis(20);
        let plan = || (0..20).map(Duration::from_millis);
        let (full, _kept) = Lane::new(plan(), 1);
        let (free, mut received) = Lane::new(plan(), 100);
        let start = Instant::now();
        let paced = run(start, vec![full, free], &CancellationToken::new());
        assert!(start.elapsed() >= Duration::from_millis(19));
        let all = Paced { planned: 20, dropped: 0 };
        assert_eq!(paced, [Paced { dropped: 19, ..all }, all]);
        let mut numbers = 0;
        while let Ok(due) = received.try_recv() {
            assert_eq!(due.number, numbers);
            assert!(due.planned >= start && due.planned < start + length);
            numbers += 1;
        }
        assert_eq!(numbers, 20);
    }
}
