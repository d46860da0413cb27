//! Results of one benchmark case in one round.

use std::collections::BTreeMap;

use serde::Serialize;

use super::case::BenchmarkCase;
use super::closed::Tally;
use super::probe::Probe;
use crate::histogram::Summary;

/// Figures of one turn of a benchmark case.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// Rows, writes or links per second; a write counts once although every zone applies it. 0 where
    /// only latency is measured.
    pub per_second: f64,
    /// Latency of one operation, a statement or a request; only where one is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Summary>,
    /// Further figures by name; the end of the name is the unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, f64>,
    /// Curves over time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
    /// Operations that were refused.
    pub failures: u64,
    /// The text of the first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

/// Values over time.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// Title of the curve.
    pub name: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// Seconds from the start, and the value.
    pub points: Vec<(f64, f64)>,
}

impl Sample {
    pub(super) fn new(per_second: f64) -> Self {
        Self { per_second, ..Self::default() }
    }

    pub(super) fn of(tally: Tally) -> Self {
        Self {
            per_second: tally.rate(),
            latency: Some(tally.latencies.summary()),
            failures: tally.failures,
            first_failure: tally.first_failure,
            ..Self::default()
        }
    }

    pub(super) fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.insert(name, value);
    }

    /// A figure by its name; `per_second`, `p50_ms` and `p99_ms` are those of the sample itself.
    pub(super) fn get(&self, name: &str) -> Option<f64> {
        match name {
            "per_second" => Some(self.per_second),
            "p50_ms" => self.latency.map(|latency| latency.p50_ms),
            "p99_ms" => self.latency.map(|latency| latency.p99_ms),
            _ => self.figures.get(name).copied(),
        }
    }
}

/// A turn: the case, the state of the machine, and the figures.
#[derive(Debug, Clone, Serialize)]
pub struct Turn {
    /// The case that was measured.
    #[serde(rename = "contestant")]
    pub case: BenchmarkCase,
    /// The machine right before.
    pub machine: Probe,
    /// Cores that this program itself was busy with on average, client and all; none where the
    /// system does not tell.
    pub client_cores: Option<f64>,
    /// How long the turn took, with all that is not measured.
    pub seconds: f64,
    /// The figures.
    #[serde(flatten)]
    pub sample: Sample,
}

/// One round: the turns in the order in which they ran.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Round {
    /// Its turns.
    pub turns: Vec<Turn>,
}

impl Round {
    /// A figure of a benchmark case in this round.
    pub(super) fn get(&self, case: BenchmarkCase, figure: &str) -> Option<f64> {
        let turn = self.turns.iter().find(|turn| turn.case == case)?;
        turn.sample.get(figure)
    }
}
