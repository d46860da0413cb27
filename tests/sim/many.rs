//! Many seeds, a process each: what they did is added up, and must have covered what the faults and
//! the clients are for.

use std::collections::BTreeMap;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::faults::{FAULTS, FOUNDER_DOWN};
use super::forgery::FORGED_BELOW_LOG;

/// A seed that takes longer than this hangs: some thousand times what one takes.
const SEED_MAX: Duration = Duration::from_secs(900);

/// From this number of seeds on, every class of faults must have occurred.
const COVERING: u64 = 50;

/// Counts of all runs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) links: u64,
    pub(crate) operations: usize,
    pub(crate) acknowledged: u64,
    /// Acknowledged writes that were answered as repeats.
    pub(crate) repeated: u64,
    /// Batches that coordinators sequenced by acks, before the leader reported the commit.
    pub(crate) early: u64,
    /// Linearizable reads that were answered.
    pub(crate) linearizable: u64,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) converged_ms: u128,
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.links += other.links;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.repeated += other.repeated;
        self.early += other.early;
        self.linearizable += other.linearizable;
        self.converged_ms = self.converged_ms.max(other.converged_ms);
        for (class, count) in other.faults {
            *self.faults.entry(class).or_default() += count;
        }
    }

    /// Expected events that never happened.
    fn gaps(&self) -> Vec<&str> {
        let classes =
            FAULTS.iter().map(|(class, _)| *class).chain([FOUNDER_DOWN, FORGED_BELOW_LOG]);
        let mut gaps: Vec<&str> =
            classes.filter(|class| !self.faults.contains_key(*class)).collect();
        let done = [
            ("an acknowledged write", self.acknowledged),
            ("a repeat", self.repeated),
            ("a batch sequenced by acks", self.early),
            ("a linearizable read", self.linearizable),
        ];
        gaps.extend(done.iter().filter(|(_, count)| *count == 0).map(|(what, _)| *what));
        gaps
    }
}

/// Which seeds, and how.
pub(crate) struct Plan {
    pub(crate) from: u64,
    pub(crate) count: u64,
    /// Simulated seconds of each.
    pub(crate) seconds: u64,
    /// Processes at a time.
    pub(crate) jobs: usize,
    /// After this time no further seed is begun.
    pub(crate) limit: Option<u64>,
}

/// How one seed ended.
pub(crate) enum Ended {
    Sound(Summary),
    /// With what it printed.
    Failed(String),
}

/// Runs one seed in a process of its own, which ends with the future.
pub(crate) async fn seed(seed: u64, seconds: u64, mutant: &str) -> Ended {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["run", "--json", "--seed", &seed.to_string()]);
    command.args(["--seconds", &seconds.to_string()]).env("PGHC_MUTANT", mutant);
    // An interrupt is for this process: the others end with it.
    command.kill_on_drop(true).process_group(0).stdin(Stdio::null());
    let Ok(output) = timeout(SEED_MAX, command.output()).await else {
        return Ended::Failed(format!("seed {seed}: no end in {SEED_MAX:?}"));
    };
    let output = output.expect("this program starts");
    let told = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str(told.trim()) {
        Ok(summary) if output.status.success() => Ended::Sound(summary),
        _ => Ended::Failed(format!("{told}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Runs all of `plan`, or what is done when it is interrupted.
pub(crate) async fn run(plan: Plan) -> ExitCode {
    let Plan { from, count, seconds, jobs, limit } = plan;
    let (started, mut total, mut failed) = (Instant::now(), Summary::default(), Vec::new());
    let (mut running, mut next, mut finished) = (JoinSet::new(), from, 0);
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be caught");
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be caught");
    let end = limit.map(|limit| started + Duration::from_secs(limit));
    let mut is_over = false;
    loop {
        while !is_over && running.len() < jobs && next < from + count {
            let number = next;
            running.spawn(async move { (number, seed(number, seconds, "").await) });
            next += 1;
        }
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = sleep_until(end.unwrap_or(started)), if end.is_some() && !is_over => is_over = true,
            ended = running.join_next() => match ended {
                None => break,
                Some(ended) => {
                    finished += 1;
                    match ended.expect("no panics") {
                        (_, Ended::Sound(summary)) => total.add(summary),
                        (number, Ended::Failed(told)) => {
                            println!("{told}\nseed {number} FAILED");
                            failed.push(number);
                        }
                    }
                }
            },
        }
    }
    drop(running);
    let took = started.elapsed().as_secs();
    tell(&total, &failed, (finished, count), (finished * seconds, took));
    let gaps = if finished >= COVERING { total.gaps() } else { Vec::new() };
    if !gaps.is_empty() {
        println!("never happened: {}", gaps.join(", "));
    }
    let is_good = finished > 0 && failed.is_empty() && gaps.is_empty();
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(total: &Summary, failed: &[u64], seeds: (u64, u64), seconds: (u64, u64)) {
    let ((finished, count), (simulated, took)) = (seeds, seconds);
    let Summary { links, operations, acknowledged, repeated, early, linearizable, .. } = total;
    println!(
        "{finished} of {count} seeds finished, {} failed {failed:?}; {simulated} simulated s in \
         {took} s; {operations} operations, {links} links, {acknowledged} writes acknowledged \
         ({repeated} as repeats), {early} batches sequenced by acks, {linearizable} linearizable reads; converged in {} ms at most",
        failed.len(),
        total.converged_ms
    );
    let faults: Vec<String> =
        total.faults.iter().map(|(class, count)| format!("{class} {count}")).collect();
    println!("{} faults: {}", total.faults.values().sum::<u64>(), faults.join(", "));
}
