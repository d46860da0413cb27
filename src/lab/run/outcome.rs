//! Outcome of a run, as stored in `summary.json`; input of all reports.

use std::collections::BTreeMap;

use pghc_wan::{SelfCheck, Stats};
use serde::{Deserialize, Serialize};

use super::faults::Event;
use super::watch::LeaderTerm;
use crate::chain_check::CheckResult;
use crate::histogram::Summary;
use crate::load::Op;
use crate::predict::model::Commit;
use crate::write_audit::WriteAudit;

/// Version of `summary.json`; it grows when a field changes its meaning.
pub const VERSION: u32 = 1;

/// Outcome of a run. Units are in the names, ms or s; seconds count from the end of the warm-up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// [`VERSION`] of the program that wrote the file.
    pub version: u32,
    /// The scenario's name.
    pub name: String,
    /// Purpose of the scenario.
    pub about: String,
    /// Note of the person who ran the scenario.
    #[serde(default)]
    pub label: Option<String>,
    /// The scenario's seed.
    pub seed: u64,
    /// When it started, RFC 3339; in virtual time there is no date.
    pub started: String,
    /// Whether it was run in virtual time: processors, disks, PostgreSQL and HTTP cost nothing.
    #[serde(default)]
    pub is_virtual: bool,
    /// Whether it was ended early; everything is of the time until then.
    #[serde(default)]
    pub interrupted: bool,
    /// Measured time.
    pub seconds: f64,
    /// Time before that.
    pub warmup_s: f64,
    /// Version of this program.
    pub program: String,
    /// Whether this program was built with optimisations.
    pub optimised: bool,
    /// Writes, zone by zone.
    pub zones: Vec<ZoneOutcome>,
    /// Writes of all zones.
    pub all: ZoneOutcome,
    /// Reads, by zone and kind.
    pub reads: Vec<ReadOutcome>,
    /// Round trips between the zones, in their order; `None`: no distances.
    pub round_trips_ms: Option<Vec<Vec<f64>>>,
    /// The formula that `model_ms` is of.
    pub commit: Commit,
    /// Zones that vote; the others learn.
    #[serde(default)]
    pub voters: Vec<String>,
    /// Zone that led longest.
    pub leader: Option<String>,
    /// The leaders over time.
    #[serde(rename = "reigns")]
    pub leader_terms: Vec<LeaderTerm>,
    /// Second by second.
    pub timeline: Vec<Point>,
    /// Injected faults.
    pub events: Vec<Event>,
    /// From zone to zone; empty when it was not followed.
    pub visibility: Vec<Visible>,
    /// Until every zone had it, of all writes.
    pub visible_everywhere: Option<Summary>,
    /// The clients' writes compared with the chain.
    #[serde(rename = "balance")]
    pub audit: WriteAudit,
    /// Result of `chain-verify`.
    pub verify: CheckResult,
    /// How late requests left.
    pub slip: Summary,
    /// Traffic of the emulator, and its lateness.
    pub emulator: Option<Stats>,
    /// How late it was before the run.
    pub emulator_check: Option<SelfCheck>,
    /// Share of the machine's processors that was used, by anything.
    pub cpu: Option<f64>,
    /// Writes of the warm-up that were not acknowledged.
    pub warm_up_failures: u64,
    /// Why the figures are not to be trusted; empty: they are.
    pub invalid: Vec<String>,
    /// The targets and whether each was met.
    pub slo: Vec<Judged>,
    /// Whether the books agree, the chain is proved, nothing was refused that should not be, and
    /// all hopes came true.
    pub passed: bool,
}

/// Writes of one zone, or of all, after the warm-up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ZoneOutcome {
    /// The zone, or `all`.
    pub zone: String,
    /// Sent.
    pub sent: u64,
    /// Acknowledged.
    pub ok: u64,
    /// Refused for good.
    pub refused: u64,
    /// Given up without an answer that says.
    pub unknown: u64,
    /// Planned requests, reads too, that were never sent: the backlog was full. Warm-up included.
    pub dropped: u64,
    /// Attempts beyond the first, reads and warm-up included.
    pub retries: u64,
    /// From the planned time to the acknowledgement.
    pub latency: Summary,
    /// 999 of 1000 were not slower.
    pub p999_ms: f64,
    /// From the first sending to the acknowledgement.
    pub service: Summary,
    /// Least that the distances allow; absent without distances.
    pub limit_ms: Option<f64>,
    /// Predicted median under the leader that led longest.
    pub model_ms: Option<f64>,
    /// Latencies in ms at rising shares.
    pub cdf: Vec<(f64, f64)>,
    /// Number of failures by kind, reads and warm-up included.
    pub failures: BTreeMap<String, u64>,
    /// Mean ms of the parts that the servers tell of their own time.
    pub timing_ms: BTreeMap<String, f64>,
}

/// Reads of one kind in one zone, after the warm-up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadOutcome {
    /// The zone.
    pub zone: String,
    /// The kind.
    pub op: Op,
    /// Answered.
    pub ok: u64,
    /// Not answered as asked.
    pub failed: u64,
    /// From the planned time.
    pub latency: Summary,
}

/// Writes of one zone that were planned within one second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    /// The second; below 0 in the warm-up.
    pub second: i64,
    /// The zone.
    pub zone: String,
    /// Acknowledged.
    pub ok: u64,
    /// Not.
    pub failed: u64,
    /// Half were not slower.
    pub p50_ms: f64,
    /// 99 of 100 were not slower.
    pub p99_ms: f64,
}

/// Writes of one zone as seen in another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Visible {
    /// Where they were written.
    pub from: String,
    /// Where they were seen.
    pub to: String,
    /// How many.
    pub count: u64,
    /// From the planned time until applied there.
    pub latency: Summary,
}

/// A hope and what came.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judged {
    /// Name of the target.
    pub what: String,
    /// The limit, in words.
    pub limit: String,
    /// The measured value, as text.
    pub got: String,
    /// Whether it is within the limit.
    pub ok: bool,
}

/// Parts that a run in virtual time leaves out, for people.
pub const VIRTUAL: &str = "VIRTUAL TIME: network delays, openraft, log, sequencer, tail, submitting and \
                           applying are real; processors, disks, PostgreSQL and HTTP cost nothing";

impl ZoneOutcome {
    /// The measured median against the limit.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.against(self.latency.p50_ms, self.limit_ms)
    }

    /// The measured median against the formula.
    #[must_use]
    pub fn model_ratio(&self) -> Option<f64> {
        self.against(self.latency.p50_ms, self.model_ms)
    }

    fn against(&self, ms: f64, expected_ms: Option<f64>) -> Option<f64> {
        let expected_ms = expected_ms.filter(|expected| *expected > 0.0 && self.ok > 0);
        expected_ms.map(|expected| ms / expected)
    }
}

impl Outcome {
    /// Mean of the zones' medians: the figure that predictions give.
    #[must_use]
    pub fn mean_p50_ms(&self) -> f64 {
        mean(self.zones.iter().filter(|zone| zone.ok > 0).map(|zone| zone.latency.p50_ms))
    }

    /// Limit, ratio to the limit, prediction and ratio to the prediction, of one zone or of all.
    /// For all zones, means over the zones are compared with the mean of the medians: the median of
    /// all writes is meaningless where zones differ.
    #[must_use]
    pub fn held(&self, zone: &ZoneOutcome) -> [Option<f64>; 4] {
        let is_all = !self.zones.iter().any(|one| one.zone == zone.zone);
        let ms = if is_all { self.mean_p50_ms() } else { zone.latency.p50_ms };
        let against = |expected_ms| zone.against(ms, expected_ms);
        [zone.limit_ms, against(zone.limit_ms), zone.model_ms, against(zone.model_ms)]
    }

    /// Mean of the limits of the zones that wrote.
    #[must_use]
    pub fn mean_limit_ms(&self) -> Option<f64> {
        let limits: Option<Vec<f64>> =
            self.zones.iter().filter(|zone| zone.ok > 0).map(|zone| zone.limit_ms).collect();
        limits.map(|limits| mean(limits.into_iter()))
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Percentiles of durations in microseconds; they are sorted here.
#[must_use]
pub fn summary_of(micros: &mut [u64]) -> Summary {
    micros.sort_unstable();
    Summary {
        p50_ms: at(micros, 0.5),
        p90_ms: at(micros, 0.9),
        p99_ms: at(micros, 0.99),
        max_ms: at(micros, 1.0),
    }
}

/// The value in ms below which this share of sorted microseconds lies; 0 of none.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list"
)]
pub fn at(sorted: &[u64], share: f64) -> f64 {
    let place = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(place.max(1) - 1).or(sorted.last()).map_or(0.0, |micros| *micros as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::{at, summary_of};

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut micros: Vec<u64> = (1..=1000).rev().map(|ms| ms * 1000).collect();
        let summary = summary_of(&mut micros);
        assert_eq!(
            [summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.max_ms],
            [500.0, 900.0, 990.0, 1000.0]
        );
        assert_eq!([at(&[], 0.5), at(&[7_000], 0.001)], [0.0, 7.0]);
    }
}
