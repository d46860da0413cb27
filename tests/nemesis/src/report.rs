//! Report of a run, for people and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use pghc_runtime::geo::timing::Timing;
use serde::Serialize;

use crate::load::{Book, Tally};

/// Longest election timeout of the profile under test (`lan`).
pub const ELECTION_TIMEOUT: Duration = Timing::LAN.election_timeout();

/// Record of one fault.
#[derive(Debug, Clone, Serialize)]
pub struct Happening {
    /// Its class.
    pub class: &'static str,
    /// Number in the matrix.
    pub number: &'static str,
    /// Zone it was for.
    pub zone: usize,
    /// Begin, in nanoseconds of the run's clock.
    pub started: u64,
    /// End, likewise.
    pub ended: u64,
    /// Whether it really happened.
    pub happened: bool,
    /// By what we know, or why it did not.
    pub evidence: String,
    /// Longest time without any acknowledgement from its begin to a little after its end, in
    /// nanoseconds; of all faults that overlap it.
    pub stall: u64,
}

/// Record of one epoch.
#[derive(Debug, Clone, Serialize)]
pub struct EpochReport {
    /// Its seed.
    pub seed: u64,
    /// Its faults.
    pub happenings: Vec<Happening>,
    /// How long it took, checks included.
    pub seconds: f64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// From the last fault's end until every write had its answer and all zones were equal.
    pub converged_seconds: f64,
    /// How long the checks took.
    pub check_seconds: f64,
    /// Failures.
    pub failures: Vec<String>,
}

impl EpochReport {
    /// An epoch whose faults are over.
    pub fn new(seed: u64, happenings: Vec<Happening>) -> Self {
        let mut failures = Vec::new();
        for fault in happenings.iter().filter(|fault| !fault.happened) {
            failures.push(format!("{} did not really happen: {}", fault.class, fault.evidence));
        }
        let (seconds, converged_seconds, check_seconds, acknowledged) = (0.0, 0.0, 0.0, 0);
        Self { seed, happenings, seconds, acknowledged, converged_seconds, check_seconds, failures }
    }

    /// Fills in the stalls.
    pub fn stalls(&mut self, book: &Book, tail: Duration) {
        let tail = u64::try_from(tail.as_nanos()).unwrap_or(0);
        for fault in &mut self.happenings {
            fault.stall = book.stall(fault.started, fault.ended + tail);
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The command that was run, with its seed and all that changes which faults a seed means.
    pub command: String,
    /// The command that repeats one epoch, without its seed; `None` where only the whole run can be
    /// repeated.
    pub one_epoch: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Whether the sandbox was missing: kills and pauses only.
    pub reduced: bool,
    /// How long it took.
    pub seconds: f64,
    /// The epochs.
    pub epochs: Vec<EpochReport>,
    /// Counts of the clients.
    pub tally: Tally,
    /// Links in the chain at the end.
    pub links: u64,
    /// Times `chain-verify` proved all zones.
    pub proofs: u64,
    /// Peak memory of one pghc process, in bytes, and its name.
    pub peak_memory: (u64, String),
    /// Failures outside of the epochs.
    pub failures: Vec<String>,
    /// Gaps: coverage too small for a conclusion.
    pub gaps: Vec<String>,
}

impl RunReport {
    /// Whether everything was checked, nothing was wrong, and enough was seen.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
            && self.gaps.is_empty()
            && self.epochs.iter().all(|epoch| epoch.failures.is_empty())
    }

    fn repeats(&self, epoch: &EpochReport) -> String {
        let one = self.one_epoch.as_ref();
        one.map_or_else(|| self.command.clone(), |one| format!("{one} --seed {}", epoch.seed))
    }

    /// Faults by class: those scheduled, those that happened, their stalls.
    fn by_class(&self) -> BTreeMap<(&'static str, &'static str), (u64, u64, Vec<u64>)> {
        let mut classes = BTreeMap::new();
        for fault in self.epochs.iter().flat_map(|epoch| &epoch.happenings) {
            let row: &mut (u64, u64, Vec<u64>) =
                classes.entry((fault.number, fault.class)).or_default();
            row.0 += 1;
            row.1 += u64::from(fault.happened);
            row.2.push(fault.stall);
        }
        classes
    }

    /// Demands this much; what is missing is a gap.
    pub fn demand(&mut self, classes: usize, faults: f64, acknowledged: f64) {
        let (different, happened) = seen(&self.epochs);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "demands are small and not negative"
        )]
        let demands = [
            ("classes of faults", different as u64, classes as u64),
            ("faults", happened, faults as u64),
            ("acknowledged writes", self.tally.acknowledged, acknowledged as u64),
        ];
        for (what, got, least) in demands {
            if got < least {
                self.gaps.push(format!("too little was seen: {got} {what}, {least} wanted"));
            }
        }
    }
}

/// How many classes of faults really happened in some epochs, and how many faults.
pub fn seen(epochs: &[EpochReport]) -> (usize, u64) {
    let happened: Vec<&str> = epochs
        .iter()
        .flat_map(|epoch| &epoch.happenings)
        .filter(|fault| fault.happened)
        .map(|fault| fault.class)
        .collect();
    let different: BTreeSet<&str> = happened.iter().copied().collect();
    (different.len(), happened.len() as u64)
}

/// The value at `share` of a sorted list.
pub fn quantile(sorted: &[u64], share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a short list"
    )]
    let place = ((sorted.len() as f64 * share).ceil() as usize).max(1) - 1;
    sorted.get(place).or(sorted.last()).copied().unwrap_or(0)
}

/// Nanoseconds in election timeouts.
fn timeouts(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() / ELECTION_TIMEOUT.as_secs_f64()
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} in {:.0} s{}",
            self.command,
            self.seconds,
            match self.reduced {
                true => " (reduced: no root, so kills and pauses only)",
                false => "",
            }
        )?;
        writeln!(
            f,
            "\n{:<5} {:<24} {:>9} {:>8}   stall in election timeouts\n{:>50} {:>7} {:>7}",
            "", "class", "scheduled", "happened", "p50", "p99", "max"
        )?;
        let (mut scheduled, mut happened) = (0, 0);
        for ((number, class), (planned, real, mut stalls)) in self.by_class() {
            stalls.sort_unstable();
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| timeouts(quantile(&stalls, share)));
            writeln!(
                f,
                "{number:<5} {class:<24} {planned:>9} {real:>8} {p50:>7.1} {p99:>7.1} {max:>7.1}"
            )?;
            scheduled += planned;
            happened += real;
        }
        writeln!(f, "{:<5} {:<24} {scheduled:>9} {happened:>8}", "", "all")?;
        let mut converged: Vec<f64> =
            self.epochs.iter().map(|epoch| epoch.converged_seconds).collect();
        converged.sort_by(f64::total_cmp);
        let tally = &self.tally;
        writeln!(
            f,
            "\nacknowledged {}, open and sent again {}, committed and late {}, refused {}, given up {}\n\
             reads {}, failed {}; shed {}\n\
             links {}, proofs by chain-verify {}, epochs {}\n\
             all zones equal after healing: median {:.1} s, longest {:.1} s\n\
             most memory of one process: {:.0} MiB ({})",
            tally.acknowledged,
            tally.unknown,
            tally.committed,
            tally.refused,
            tally.given_up,
            tally.reads,
            tally.reads_failed,
            tally.shed,
            self.links,
            self.proofs,
            self.epochs.len(),
            converged.get(converged.len() / 2).copied().unwrap_or(0.0),
            converged.last().copied().unwrap_or(0.0),
            f64::from(u32::try_from(self.peak_memory.0 >> 10).unwrap_or(u32::MAX)) / 1024.0,
            self.peak_memory.1,
        )?;
        for gap in &self.gaps {
            writeln!(f, "INCONCLUSIVE: {gap}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILURE: {failure}\n  to repeat: pghc-nemesis {}", self.command)?;
        }
        for epoch in &self.epochs {
            for failure in &epoch.failures {
                writeln!(f, "FAILURE in epoch {}: {failure}", epoch.seed)?;
                writeln!(f, "  to repeat: pghc-nemesis {}", self.repeats(epoch))?;
            }
        }
        write!(f, "\n{}", if self.passed() { "PASSED" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::{EpochReport, RunReport, quantile};

    #[test]
    fn a_failure_is_told_with_the_command_that_repeats_it() {
        let failed = |seed| {
            let mut epoch = EpochReport::new(seed, Vec::new());
            epoch.failures.push("it broke".to_owned());
            epoch
        };
        let mut report = RunReport {
            command: "soak --hours 1 --seed 7 --only leader-kill".to_owned(),
            one_epoch: Some("epoch --only leader-kill".to_owned()),
            seed: 7,
            reduced: false,
            seconds: 1.0,
            epochs: vec![failed(99)],
            tally: crate::load::Tally::default(),
            links: 0,
            proofs: 0,
            peak_memory: (0, String::new()),
            failures: Vec::new(),
            gaps: Vec::new(),
        };
        let told = report.to_string();
        assert!(
            told.contains("repeat: pghc-nemesis epoch --only leader-kill --seed 99\n"),
            "{told}"
        );
        // Batches of power cuts have numbers and no seeds of their own.
        report.one_epoch = None;
        let told = report.to_string();
        assert!(told.contains("repeat: pghc-nemesis soak --hours 1 --seed 7 --only"), "{told}");
    }

    #[test]
    fn quantiles_are_values_of_the_list() {
        let list: Vec<u64> = (1..=100).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&list, share)), [50, 99, 100]);
        assert_eq!((quantile(&[7], 0.5), quantile(&[], 0.5)), (7, 0));
    }
}
