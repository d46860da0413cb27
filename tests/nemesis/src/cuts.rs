//! Power cuts and nothing else, one every few seconds, under load: no acknowledged write may be lost.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use crate::check::Evidence;
use crate::cluster::{Ground, View};
use crate::faults::until;
use crate::load::Rates;
use crate::report::{EpochReport, RunReport};
use crate::run::{CONVERGE_MAX, Run, perform};
use crate::soak::tell;

/// Cuts between two checks.
const BATCH: u32 = 10;
/// Load between two cuts.
const CALM: Duration = Duration::from_millis(1_200);
/// Writes that must be acknowledged for each cut, or the cut found nothing to lose.
const ACKNOWLEDGED_PER_CUT: u32 = 100;

/// How many cuts.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// All.
    pub count: u32,
    /// Cuts of all disks at once.
    pub everything: u32,
    /// Every choice follows from it.
    pub seed: u64,
}

impl Plan {
    /// Whether cut number `index` is one of everything: they are spread evenly.
    fn is_everything(self, index: u32) -> bool {
        let share =
            |index: u32| u64::from(index) * u64::from(self.everything) / u64::from(self.count);
        share(index + 1) > share(index)
    }
}

/// Cuts, and checks now and then.
///
/// # Errors
/// When the cluster cannot be started, or not be checked.
pub async fn run(
    (ground, rates): (Ground, Rates),
    plan: Plan,
) -> anyhow::Result<(RunReport, Evidence)> {
    let mut run = Run::start(ground, rates, plan.seed).await?;
    let mut random = StdRng::seed_from_u64(plan.seed);
    let started = Instant::now();
    let mut batches = Vec::new();
    let mut index = 0;
    while index < plan.count {
        let begun = run.load.book.now();
        run.load.resume();
        let mut happenings = Vec::new();
        for _ in 0..BATCH.min(plan.count - index) {
            tokio::time::sleep(CALM).await;
            let name = match (plan.is_everything(index), random.random_range(0..3)) {
                (true, _) => "power-cut-everything",
                (false, 0) => "power-cut-database",
                (false, _) => "power-cut-coordinator",
            };
            let class = run.class(name).expect("the catalogue has power cuts");
            let leader = run.view.look().leader.filter(|_| random.random_bool(0.5));
            let zone = leader.unwrap_or_else(|| random.random_range(0..crate::cluster::ZONES));
            let hold = Duration::from_millis(random.random_range(50..500));
            happenings.push(perform(class, run.scene(zone, hold, random.random())).await);
            // The next cut is to hit a whole cluster again, though a lagging one.
            let back = until("every zone serves", CONVERGE_MAX, async || {
                let troubles = View::ask(&run.cluster).await.troubles;
                troubles.iter().all(|trouble| trouble.starts_with("head")).then_some(())
            });
            if let Err(error) = back.await {
                run.load.book.finding(format!("after {name}: {error:#}"));
            }
            index += 1;
        }
        let mut report = EpochReport::new(u64::from(index), happenings);
        run.settle(&mut report).await;
        run.account(&mut report, begun);
        tell(started, &report);
        let failed = !report.failures.is_empty();
        batches.push(report);
        if failed {
            break;
        }
    }
    let Plan { count, everything, seed } = plan;
    let command = format!("cuts --count {count} --everything {everything} --seed {seed}");
    let mut report = run.report(command, seed, started, batches).await?;
    report.one_epoch = None;
    report.demand(1, f64::from(count), f64::from(count * ACKNOWLEDGED_PER_CUT));
    Ok((report, run.end().await))
}

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn full_cuts_are_spread_evenly_over_run() {
        for (count, everything) in [(200, 50), (7, 7), (10, 0), (10, 3)] {
            let plan = Plan { count, everything, seed: 0 };
            let made = (0..count).filter(|index| plan.is_everything(*index)).count();
            assert_eq!(made, usize::try_from(everything).unwrap());
        }
    }
}
