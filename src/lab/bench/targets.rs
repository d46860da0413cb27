//! Performance targets, as ratios inside one run: the required value and the measured one. Pure.

use serde::Serialize;

use super::case::BenchmarkCase::{
    self, Alone, Bulk, CatchUp, Far, Idle, Memory, Original, Overload, Plain, Raw, RawOne,
    Replicas, ReplicasAlone, Single, SlowZone, Verify,
};
use super::sample::Round;
use super::spread::Spread;

/// Which side of the target is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The figure should reach it.
    AtLeast,
    /// The figure should stay below or at it.
    AtMost,
}

/// One figure of a benchmark case.
type Figure = (BenchmarkCase, &'static str);

struct TargetSpec {
    name: &'static str,
    of: Figure,
    /// The divisor; `None`: the figure itself counts.
    by: Option<Figure>,
    side: Side,
    at: f64,
}

const fn ratio(name: &'static str, of: Figure, by: Figure, at: f64) -> TargetSpec {
    TargetSpec { name, of, by: Some(by), side: Side::AtLeast, at }
}

const fn at_most(name: &'static str, of: Figure, at: f64) -> TargetSpec {
    TargetSpec { name, of, by: None, side: Side::AtMost, at }
}

const RATE: &str = "per_second";

const TARGETS: &[TargetSpec] = &[
    ratio("bulk, applied in all zones / raw limit", (Bulk, "applied_per_second"), (Raw, RATE), 0.6),
    ratio("single writes / plain PostgreSQL", (Single, RATE), (Plain, RATE), 0.6),
    ratio("POST /chain / plain PostgreSQL", (Original, RATE), (Plain, RATE), 0.6),
    ratio("single writes / synchronous replicas", (Single, RATE), (Replicas, RATE), 1.2),
    at_most("single write, one client, p50 in ms", (Alone, "p50_ms"), 1.5),
    at_most("single write, one client, p99 in ms", (Alone, "p99_ms"), 5.0),
    TargetSpec {
        name: "single write, one client, p50 / synchronous replicas",
        of: (Alone, "p50_ms"),
        by: Some((ReplicasAlone, "p50_ms")),
        side: Side::AtMost,
        at: 2.5,
    },
    ratio("catch-up / raw limit of one server", (CatchUp, RATE), (RawOne, RATE), 0.7),
    ratio("chain-verify / COPY of the same rows", (Verify, RATE), (Verify, "copy_per_second"), 0.6),
    at_most("memory of chain-verify in MiB", (Verify, "verifier_mib"), 64.0),
    ratio(
        "single writes with a frozen zone / healthy",
        (SlowZone, RATE),
        (SlowZone, "healthy_per_second"),
        0.9,
    ),
    ratio(
        "goodput at ten times the peak / peak",
        (Overload, RATE),
        (Overload, "peak_per_second"),
        0.9,
    ),
    at_most("latency is back after overload, in s", (Overload, "recovery_s"), 5.0),
    ratio(
        "bulk between continents / side by side",
        (Far, "applied_per_second"),
        (Far, "near_applied_per_second"),
        0.8,
    ),
    at_most("an idle coordinator, % of a core", (Idle, "coordinator_percent"), 0.5),
    at_most("an idle API node, % of a core", (Idle, "api_percent"), 0.5),
    at_most("memory of a coordinator in MiB", (Memory, "coordinator_mib"), 256.0),
    at_most("memory of an API node in MiB", (Memory, "api_mib"), 256.0),
    at_most("growth of memory, last quarter / second", (Memory, "growth"), 1.1),
];

/// One target with the values of all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct PerformanceTarget {
    /// Name of the comparison.
    pub name: &'static str,
    /// The figure of each round in which all of it was measured.
    pub rounds: Vec<f64>,
    /// These together.
    pub value: Spread,
    /// Which side is good.
    pub side: Side,
    /// Where it should be.
    #[serde(rename = "mark")]
    pub threshold: f64,
    /// Whether the median is there.
    pub met: bool,
    /// Whether all rounds say the same as the median.
    pub certain: bool,
}

/// The targets with all figures in `rounds`.
pub(super) fn targets(rounds: &[Round]) -> Vec<PerformanceTarget> {
    TARGETS.iter().filter_map(|spec| spec.target(rounds)).collect()
}

impl TargetSpec {
    fn target(&self, rounds: &[Round]) -> Option<PerformanceTarget> {
        let rounds: Vec<f64> = rounds.iter().filter_map(|round| self.value(round)).collect();
        let value = Spread::of(rounds.iter().copied())?;
        let met = self.is_good(value.median);
        let certain = rounds.iter().all(|value| self.is_good(*value) == met);
        let Self { name, side, at: threshold, .. } = *self;
        Some(PerformanceTarget { name, rounds, value, side, threshold, met, certain })
    }

    fn value(&self, round: &Round) -> Option<f64> {
        let of = round.get(self.of.0, self.of.1)?;
        match self.by {
            None => Some(of),
            Some((case, figure)) => {
                // A benchmark case that did nothing would make every ratio infinite.
                let by = round.get(case, figure).filter(|by| *by > 0.0)?;
                Some(of / by)
            }
        }
    }

    fn is_good(&self, value: f64) -> bool {
        match self.side {
            Side::AtLeast => value >= self.at,
            Side::AtMost => value <= self.at,
        }
    }
}

impl PerformanceTarget {
    /// The conclusion in at most 5 words.
    #[must_use]
    pub fn conclusion(&self) -> &'static str {
        match (self.met, self.certain) {
            (true, true) => "met",
            (true, false) => "met, not in every round",
            (false, true) => "not met",
            (false, false) => "not met, but in some rounds",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::targets;
    use crate::bench::case::BenchmarkCase::{self, Overload, Plain, Single};
    use crate::bench::probe::Probe;
    use crate::bench::sample::{Round, Sample, Turn};

    fn turn(case: BenchmarkCase, sample: Sample) -> Turn {
        let machine = Probe { cpu_ms: 1.0, flush_ms: 1.0 };
        Turn { case, machine, client_cores: None, seconds: 1.0, sample }
    }

    fn round(single: f64, plain: f64) -> Round {
        let turns = vec![turn(Single, Sample::new(single)), turn(Plain, Sample::new(plain))];
        Round { turns }
    }

    #[test]
    fn a_ratio_is_of_two_turns_of_the_same_round() {
        // The machine is twice as fast in the second round: the ratio does not care.
        let found = targets(&[round(60.0, 100.0), round(140.0, 200.0), round(130.0, 200.0)]);
        assert_eq!(found.len(), 1, "the others were not measured");
        let target = &found[0];
        assert!((target.value.median - 0.65).abs() < 1e-9, "{target:?}");
        assert!((target.value.min - 0.6).abs() < 1e-9 && (target.value.max - 0.7).abs() < 1e-9);
        assert_eq!(target.conclusion(), "met");
        let some = &targets(&[round(50.0, 100.0), round(65.0, 100.0), round(66.0, 100.0)])[0];
        assert_eq!(some.conclusion(), "met, not in every round");
        let none = &targets(&[round(50.0, 100.0)])[0];
        assert_eq!(none.conclusion(), "not met");
        assert!(targets(&[round(50.0, 0.0)]).is_empty(), "nothing can be said against nothing");
    }

    #[test]
    fn a_figure_that_should_be_small_is_met_below_the_mark() {
        let mut sample = Sample::new(90.0);
        sample.figure("peak_per_second", 100.0);
        sample.figure("recovery_s", 5.5);
        let found = targets(&[Round { turns: vec![turn(Overload, sample)] }]);
        let conclusions: Vec<_> = found.iter().map(super::PerformanceTarget::conclusion).collect();
        assert_eq!(conclusions, ["met", "not met"]);
    }
}
