//! The figures of a bench run side by side, and how they stand to the marks.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::Phase;
use super::closed::Tally;
use crate::lab::histogram::Summary;

/// Single writes of pghc against single inserts of plain PostgreSQL, at least.
const MARK_SINGLE: f64 = 0.25;
/// Bulk writes of pghc against the raw limit, at least.
const MARK_BULK: f64 = 0.30;
/// Median of one client alone in milliseconds, at most.
const MARK_ALONE_MS: f64 = 5.0;

/// What one phase measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The phase.
    pub phase: Phase,
    /// Rows or writes per second; a write counts once although three zones apply it.
    pub per_second: f64,
    /// Of one operation: a statement or a request.
    pub latency: Summary,
    /// Operations that were refused.
    pub failures: u64,
    /// What the first of them said.
    pub first_failure: Option<String>,
    /// Writes the slowest zone had yet to apply when the phase ended; only phases of pghc.
    pub slowest_zone_behind: Option<u64>,
}

impl Measured {
    pub(super) fn new(phase: Phase, tally: Tally, slowest_zone_behind: Option<u64>) -> Self {
        Self {
            phase,
            per_second: tally.rate(),
            latency: tally.latencies.summary(),
            failures: tally.failures,
            first_failure: tally.first_failure,
            slowest_zone_behind,
        }
    }
}

/// One figure against its mark.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    /// What is compared.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Where it should be.
    pub mark: f64,
    /// Whether it is there.
    pub met: bool,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Cores of this machine, which all processes share.
    pub cores: usize,
    /// Version of PostgreSQL.
    pub postgres: String,
    /// Measured seconds of each phase.
    pub seconds: f64,
    /// The phases, in the order of their numbers.
    pub phases: Vec<Measured>,
    /// Marks whose phases were run.
    pub marks: Vec<Mark>,
    /// What `chain-verify` said at the end, when pghc was measured.
    pub verify: Option<crate::lab::verdict::Verdict>,
}

/// The marks that can be told from `phases`.
pub(super) fn marks(phases: &[Measured]) -> Vec<Mark> {
    let find = |wanted| phases.iter().find(|measured| measured.phase == wanted);
    let ratio = |above, below, mark| {
        let value = find(above)?.per_second / find(below)?.per_second;
        let name = format!("{above} / {below}");
        Some(Mark { name, value, mark, met: value >= mark })
    };
    let alone = find(Phase::Alone).map(|alone| {
        let value = alone.latency.p50_ms;
        let name = format!("{}, p50 in ms", Phase::Alone);
        Mark { name, value, mark: MARK_ALONE_MS, met: value <= MARK_ALONE_MS }
    });
    [
        ratio(Phase::Original, Phase::Plain, MARK_SINGLE),
        ratio(Phase::Single, Phase::Plain, MARK_SINGLE),
        ratio(Phase::Bulk, Phase::Raw, MARK_BULK),
        alone,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(row(header.iter().map(ToString::to_string)));
    table
}

/// The first cell is a name, the others are figures.
fn row(cells: impl Iterator<Item = String>) -> Vec<Cell> {
    let align = |(place, text)| match place {
        0 => Cell::new(text),
        _ => Cell::new(text).set_alignment(CellAlignment::Right),
    };
    cells.enumerate().map(align).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, postgres, seconds, .. } = self;
        writeln!(
            f,
            "{cores} cores shared by all, the client too; PostgreSQL {postgres}; {seconds} s a phase"
        )?;
        let mut phases = table(&["phase", "per second", "p50 ms", "p99 ms", "failed", "behind"]);
        for measured in &self.phases {
            let Summary { p50_ms, p99_ms, .. } = measured.latency;
            let behind = measured.slowest_zone_behind.map(|ids| ids.to_string());
            phases.add_row(row([
                measured.phase.to_string(),
                format!("{:.0}", measured.per_second),
                format!("{p50_ms:.2}"),
                format!("{p99_ms:.2}"),
                measured.failures.to_string(),
                behind.unwrap_or_else(|| "-".to_owned()),
            ]
            .into_iter()));
        }
        writeln!(f, "{}", phases.trim_fmt())?;
        for measured in &self.phases {
            if let Some(reason) = &measured.first_failure {
                writeln!(f, "{}: first failure: {reason}", measured.phase)?;
            }
        }
        if !self.marks.is_empty() {
            let mut marks = table(&["against", "value", "mark", "verdict"]);
            for mark in &self.marks {
                let verdict = if mark.met { "met" } else { "below the mark" };
                let figures = [format!("{:.2}", mark.value), format!("{:.2}", mark.mark)];
                let [value, at] = figures;
                marks.add_row(row([mark.name.clone(), value, at, verdict.to_owned()].into_iter()));
            }
            writeln!(f, "\n{}", marks.trim_fmt())?;
        }
        match &self.verify {
            Some(verdict) if verdict.passed => {
                write!(f, "chain-verify passed: {}", verdict.line())
            }
            Some(verdict) => write!(f, "chain-verify DID NOT PASS:\n{}", verdict.report.trim_end()),
            None => Ok(()),
        }
    }
}
