//! Epochs of faults, one after the other, until the time is over or something is wrong.

use std::time::Duration;

use tokio::time::Instant;

use crate::check::Evidence;
use crate::cluster::Ground;
use crate::load::Rates;
use crate::report::{EpochReport, RunReport, seen};
use crate::run::Run;

/// How long faults are injected in an epoch of about a minute.
const FAULTS: Duration = Duration::from_secs(42);
/// Classes that a whole run must have seen.
const CLASSES: usize = 20;
/// Classes that a run of kills and pauses must have covered.
const CLASSES_REDUCED: usize = 10;
/// Faults and acknowledged writes that an hour must have.
const PER_HOUR: (f64, f64) = (600.0, 1_000_000.0);

/// A plan: everything but the machine's own timing follows from it.
pub struct Plan {
    command: String,
    seed: u64,
    seeds: Box<dyn Iterator<Item = u64>>,
    length: Duration,
    classes: usize,
    faults: f64,
    acknowledged: f64,
    /// After how many epochs it ends if enough was seen; `None`: it lasts its whole time.
    at_least: Option<usize>,
}

impl Plan {
    /// Epochs for this number of hours.
    pub fn hours(hours: f64, seed: u64) -> Self {
        // A short run cannot have seen every class.
        let classes = if hours >= 0.1 { CLASSES } else { 0 };
        Self {
            command: format!("soak --hours {hours} --seed {seed}"),
            seed,
            seeds: epochs(seed),
            length: Duration::from_secs_f64(hours * 3600.0),
            classes,
            faults: hours * PER_HOUR.0,
            acknowledged: hours * PER_HOUR.1,
            at_least: None,
        }
    }

    /// One epoch.
    pub fn epoch(seed: u64) -> Self {
        Self {
            command: format!("epoch --seed {seed}"),
            seed,
            seeds: Box::new([seed].into_iter()),
            length: Duration::ZERO,
            classes: 0,
            faults: 10.0,
            acknowledged: 1_000.0,
            at_least: None,
        }
    }

    /// Two epochs; up to five where long faults make two too few.
    pub fn smoke(seed: u64) -> Self {
        Self {
            command: format!("smoke --seed {seed}"),
            seed,
            seeds: Box::new(epochs(seed).take(5)),
            length: Duration::from_secs(600),
            classes: CLASSES,
            faults: 30.0,
            acknowledged: 5_000.0,
            at_least: Some(2),
        }
    }
}

/// Seeds of a soak's epochs.
pub fn epochs(seed: u64) -> Box<dyn Iterator<Item = u64>> {
    let mut state = seed;
    // Any constants that mix well do; the epochs only must differ.
    Box::new(std::iter::from_fn(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(state >> 32)
    }))
}

/// Runs a plan. Answers the report and what was seen.
///
/// # Errors
/// When the cluster cannot be started, or not be checked.
pub async fn run(
    (ground, rates): (Ground, Rates),
    plan: Plan,
) -> anyhow::Result<(RunReport, Evidence)> {
    let some = !ground.only.is_empty();
    let wanted = match ground.sandbox {
        true => plan.classes,
        false => plan.classes.min(CLASSES_REDUCED),
    };
    let mut run = Run::start(ground, rates, plan.seed).await?;
    let started = Instant::now();
    let mut epochs: Vec<EpochReport> = Vec::new();
    for seed in plan.seeds {
        let epoch = run.epoch(seed, FAULTS).await;
        tell(started, &epoch);
        let failed = !epoch.failures.is_empty();
        epochs.push(epoch);
        let (classes, faults) = seen(&epochs);
        #[expect(clippy::cast_precision_loss, reason = "few faults")]
        let is_enough = classes >= wanted && faults as f64 >= plan.faults;
        if is_enough && plan.at_least.is_some_and(|least| epochs.len() >= least) {
            break;
        }
        // Stop at the first failure: what lies on the disks is the evidence.
        if failed || started.elapsed() + FAULTS > plan.length {
            break;
        }
    }
    let mut report = run.report(plan.command, plan.seed, started, epochs).await?;
    match some {
        false => report.demand(wanted, plan.faults, plan.acknowledged),
        true => report.demand(1, 1.0, 1.0),
    }
    Ok((report, run.end().await))
}

/// One line about an epoch.
pub fn tell(started: Instant, epoch: &EpochReport) {
    println!(
        "{:>6.0} s  epoch {}: {} faults, {} acknowledged, equal after {:.1} s, checked in {:.1} s{}",
        started.elapsed().as_secs_f64(),
        epoch.seed,
        epoch.happenings.len(),
        epoch.acknowledged,
        epoch.converged_seconds,
        epoch.check_seconds,
        if epoch.failures.is_empty() { "" } else { ": FAILED" },
    );
}
