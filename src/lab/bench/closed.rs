//! Closed-loop workers: each repeats one operation for the length of a phase.
//!
//! A closed loop finds the highest rate a system takes; it says nothing of latency under a load
//! that does not wait, for which there is [`super::open`]. An operation that straddles a
//! border of the measured window counts for the share of its time inside, so large operations do
//! not make the rate jump.

use std::time::{Duration, Instant};

use anyhow::bail;
use futures::future::try_join_all;

use crate::histogram::Latencies;

/// Failed operations after which a worker gives up: the phase would measure refusals.
const FAILURES_MAX: u64 = 100;

/// The measured time of a phase; what happens before is warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    /// A window of `length` after a warm-up.
    pub(super) fn after(warm_up: Duration, length: Duration) -> Self {
        let begin = Instant::now() + warm_up;
        Self { begin, end: begin + length }
    }

    /// When measuring begins.
    pub(super) fn begin(self) -> Instant {
        self.begin
    }

    /// When it ends.
    pub(super) fn end(self) -> Instant {
        self.end
    }

    /// Its length in seconds.
    pub(super) fn seconds(self) -> f64 {
        (self.end - self.begin).as_secs_f64()
    }

    /// Share of the time from `from` to `to` that lies in the window, 0 to 1.
    fn share(self, from: Instant, to: Instant) -> f64 {
        let inside = to.min(self.end).saturating_duration_since(from.max(self.begin));
        let whole = to.saturating_duration_since(from);
        if whole.is_zero() { 0.0 } else { inside.as_secs_f64() / whole.as_secs_f64() }
    }
}

/// Totals of all workers inside the window.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Rows or writes done.
    pub(super) units: f64,
    /// Time of each operation that began inside.
    pub(super) latencies: Latencies,
    /// Operations the server refused.
    pub(super) failures: u64,
    /// The text of the first failure.
    pub(super) first_failure: Option<String>,
    /// Length of the window.
    pub(super) seconds: f64,
}

impl Tally {
    /// Units per second.
    pub(super) fn rate(&self) -> f64 {
        self.units / self.seconds
    }

    /// Counts an operation that failed.
    pub(super) fn fail(&mut self, reason: String) {
        self.failures += 1;
        self.first_failure.get_or_insert(reason);
    }

    fn merge(mut self, other: Self) -> Self {
        self.units += other.units;
        self.latencies.merge(&other.latencies);
        self.failures += other.failures;
        self.first_failure = self.first_failure.or(other.first_failure);
        self
    }
}

/// The result of one operation.
#[derive(Debug)]
pub(super) enum Outcome {
    /// This many units were done.
    Done(u64),
    /// This many were done, and others refused for this reason.
    Refused(u64, String),
}

/// Repeats `operation` until the window ends.
///
/// # Errors
/// The operation's own, and too many refusals.
pub(super) async fn work(
    window: Window,
    mut operation: impl AsyncFnMut() -> anyhow::Result<Outcome>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut now = Instant::now();
    while now < window.end {
        let outcome = operation().await?;
        let after = Instant::now();
        let units = match outcome {
            Outcome::Done(units) => units,
            Outcome::Refused(units, reason) => {
                if tally.failures + 1 >= FAILURES_MAX {
                    bail!("{FAILURES_MAX} operations of one worker were refused: {reason}");
                }
                tally.fail(reason);
                units
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "operations are far below 2^52 units")]
        let units = units as f64;
        tally.units += units * window.share(now, after);
        if now >= window.begin {
            tally.latencies.record(after - now);
        }
        now = after;
    }
    Ok(tally)
}

/// Runs all workers of a phase at once and adds up what they did.
///
/// # Errors
/// The first error of any worker.
pub(super) async fn together(
    window: Window,
    workers: impl IntoIterator<Item = impl Future<Output = anyhow::Result<Tally>>>,
) -> anyhow::Result<Tally> {
    let tallies = try_join_all(workers).await?;
    let sum = tallies.into_iter().fold(Tally::default(), Tally::merge);
    Ok(Tally { seconds: window.seconds(), ..sum })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Outcome, Window, together, work};

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn an_operation_counts_for_its_share_of_the_window() {
        let window = Window::after(100 * MS, 100 * MS);
        let begin = window.begin;
        let share =
            |from, to| window.share(begin + from * MS - 100 * MS, begin + to * MS - 100 * MS);
        for (from, to, wanted) in
            [(0, 90, 0.0), (50, 150, 0.5), (110, 120, 1.0), (150, 250, 0.5), (0, 400, 0.25)]
        {
            assert!((share(from, to) - wanted).abs() < 1e-9, "{from} to {to}");
        }
    }

    #[tokio::test]
    async fn workers_that_do_one_unit_a_millisecond_reach_their_rate() {
        let mut rates = Vec::new();
        // Timers are late, never early: on a busy machine very late, once or twice.
        while rates.len() < 20 && rates.last().is_none_or(|rate| *rate < 500.0) {
            let window = Window::after(20 * MS, 200 * MS);
            let worker = || {
                work(window, async || {
                    tokio::time::sleep(10 * MS).await;
                    Ok(Outcome::Done(10))
                })
            };
            let tally = together(window, [worker(), worker()]).await.expect("nothing fails");
            assert!(tally.rate() <= 2000.0, "{}", tally.rate());
            assert!(tally.rate() < 500.0 || tally.latencies.count() > 0);
            rates.push(tally.rate());
        }
        assert!(rates.last().is_some_and(|rate| *rate >= 500.0), "{rates:?}");
    }

    #[tokio::test]
    async fn a_worker_that_is_only_refused_gives_up() {
        let window = Window::after(Duration::ZERO, Duration::from_secs(60));
        let refused = async || Ok(Outcome::Refused(0, "429 overloaded".to_owned()));
        let error = together(window, [work(window, refused)]).await.expect_err("only refusals");
        assert!(error.to_string().contains("overloaded"), "{error}");
    }
}
