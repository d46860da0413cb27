//! The clock of an open-loop run: it calls each request at its planned time, whatever became of
//! the ones before.
//!
//! A thread of its own, because tokio's timers have a grain of 1 ms. The plan is a pure function of
//! the seed. Invariant: a planned request is either handed over or counted as dropped.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pghc_wan::wake_on_time;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

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

/// The planned times of one zone's requests, from the start of the run.
#[derive(Debug)]
pub struct Plan {
    arrival: Arrival,
    gap: Duration,
    end: Duration,
    next: Duration,
    random: StdRng,
}

impl Plan {
    /// A plan of `rate` requests a second for `length`, from `seed` and the zone's `place`.
    ///
    /// # Panics
    /// If the rate is not above 0.
    #[must_use]
    pub fn new(arrival: Arrival, rate: f64, length: Duration, seed: u64, place: usize) -> Self {
        assert!(rate > 0.0, "a plan needs a rate above 0, not {rate}");
        let gap = Duration::from_secs_f64(1.0 / rate);
        // Zones differ by their place; the odd factor keeps neighbouring seeds apart.
        let random =
            StdRng::seed_from_u64(seed ^ (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut plan = Self { arrival, gap, end: length, next: Duration::ZERO, random };
        plan.next = match arrival {
            Arrival::Poisson => plan.draw(),
            // Zones shall not send all at once.
            Arrival::Uniform => gap.mul_f64(plan.random.random_range(0.0..1.0)),
        };
        plan
    }

    fn draw(&mut self) -> Duration {
        match self.arrival {
            Arrival::Uniform => self.gap,
            // 1 - x is never 0, so its logarithm is finite.
            Arrival::Poisson => {
                self.gap.mul_f64(-(1.0 - self.random.random_range(0.0..1.0_f64)).ln())
            }
        }
    }
}

impl Iterator for Plan {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let now = self.next;
        let gap = self.draw();
        self.next += gap;
        (now < self.end).then_some(now)
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

/// One zone of a run: its plan, its senders, and the count of dropped requests.
pub struct Lane {
    /// When to send, from the start of the run, in order.
    pub plan: Box<dyn Iterator<Item = Duration> + Send>,
    /// Queue of the senders. Its length bounds the backlog; a request that finds it full is dropped
    /// and counted.
    pub sender: mpsc::Sender<Due>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// Counts of a lane after the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paced {
    /// Requests that became due.
    pub planned: u64,
    /// Due requests that were dropped.
    pub dropped: u64,
}

/// Runs the plans of all lanes from `start` on. Blocks its thread; ends early when `stop` is set.
#[must_use]
pub fn run(start: Instant, lanes: Vec<Lane>, stop: &AtomicBool) -> Vec<Paced> {
    wake_on_time();
    let begin = |mut lane: Lane| (lane.plan.next(), Paced { planned: 0, dropped: 0 }, lane);
    let mut lanes: Vec<_> = lanes.into_iter().map(begin).collect();
    loop {
        let nearest = lanes.iter_mut().filter(|lane| lane.0.is_some()).min_by_key(|lane| lane.0);
        let Some((next, paced, lane)) = nearest else { break };
        let planned = start + next.expect("lanes without a next request are filtered out");
        while !stop.load(Ordering::Relaxed) {
            let wait = planned.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            std::thread::sleep(wait.min(LOOK));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if lane.sender.try_send(Due { number: paced.planned, planned }).is_err() {
            paced.dropped += 1;
        }
        paced.planned += 1;
        *next = lane.plan.next();
    }
    lanes.into_iter().map(|(_, paced, _)| paced).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use tokio::sync::mpsc;

    use super::{Arrival, Lane, Paced, Plan, run};

    fn plan(arrival: Arrival, seed: u64, place: usize) -> Vec<Duration> {
        Plan::new(arrival, 100.0, Duration::from_secs(100), seed, place).collect()
    }

    #[test]
    fn arrival_plan_is_deterministic_by_seed() {
        for arrival in [Arrival::Poisson, Arrival::Uniform] {
            let times = plan(arrival, 7, 0);
            assert_eq!(times, plan(arrival, 7, 0));
            assert_ne!(times, plan(arrival, 7, 1));
            assert_ne!(times, plan(arrival, 8, 0));
            assert!(times.is_sorted());
            // Ten thousand expected; five standard deviations of a Poisson count are 500.
            assert!((9_500..10_500).contains(&times.len()), "{arrival:?}: {}", times.len());
        }
    }

    #[test]
    fn full_lane_drops_writes_without_delaying_others() {
        let length = Duration::from_millis(20);
        let plan = |place| Plan::new(Arrival::Uniform, 1_000.0, length, 1, place);
        let (full, _kept) = mpsc::channel(1);
        let (free, mut received) = mpsc::channel(100);
        let lanes = vec![(plan(0), full), (plan(1), free)]
            .into_iter()
            .map(|(plan, sender)| Lane { plan: Box::new(plan), sender })
            .collect();
        let start = Instant::now();
        let paced = run(start, lanes, &AtomicBool::new(false));
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
