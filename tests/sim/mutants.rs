//! Mutants: seeds run with each until a check catches it.

use std::process::ExitCode;

use pghc_runtime::mutation::{self, Mutant};
use tokio::time::Instant;

use super::many::{Ended, seed};

/// Bugs that nothing simulated meets; docs/reliability/records.md names their checks. They are
/// in SQL, which the model replaces, or at the edges.
const ELSEWHERE: &[Mutant] = &[
    Mutant::NoEpoch,
    Mutant::VerifySkipsLast,
    Mutant::HashNotCompared,
    Mutant::BellBelieved,
    Mutant::SourceNotConfirmed,
    Mutant::ForeignLockObeyed,
];

/// Runs up to `seeds` seeds for each mutant, or for those named, and prints a table.
pub(crate) async fn run(only: &[String], from: u64, seeds: u64, seconds: u64) -> ExitCode {
    if !mutation::BUILT {
        println!("build with --features pghc-runtime/mutation");
        return ExitCode::FAILURE;
    }
    let is_chosen = |mutant: &&Mutant| match only {
        [] => !ELSEWHERE.contains(mutant),
        only => only.iter().any(|name| name == mutant.name()),
    };
    println!("| mutant | caught by | seed | simulated s | wall s |\n|---|---|---|---|---|");
    let mut is_good = true;
    for mutant in Mutant::ALL.iter().filter(is_chosen) {
        let started = Instant::now();
        let mut caught = None;
        for number in from..from + seeds {
            if let Ended::Failed(told) = seed(number, seconds, mutant.name()).await {
                caught = Some((number, told));
                break;
            }
        }
        let wall = started.elapsed().as_secs_f64();
        let Some((number, told)) = caught else {
            println!("| {} | NOTHING | | {} | {wall:.1} |", mutant.name(), seeds * seconds);
            is_good = false;
            continue;
        };
        let (at, check) = check(&told);
        #[expect(clippy::cast_precision_loss, reason = "few seeds")]
        let simulated = ((number - from) * seconds) as f64 + at;
        println!("| {} | {check} | {number} | {simulated:.1} | {wall:.1} |", mutant.name());
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// When and what a failed seed says first, and the first violation if a history was judged.
fn check(told: &str) -> (f64, String) {
    let mut lines = told.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let (at, what) = match first.split_once(": at ").and_then(|(_, rest)| rest.split_once(" s: ")) {
        Some((at, what)) => (at.parse().unwrap_or_default(), what),
        None => (0.0, first),
    };
    let judged = what.starts_with("verdict").then(|| lines.nth(1)).flatten();
    let what = judged.unwrap_or(what).replace('|', "/");
    (at, what.chars().take(160).collect())
}
