//! Report of a run: figures of all cases, comparison with the targets, warnings.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::case::BenchmarkCase;
use super::options::Options;
use super::sample::Round;
use super::spread::Spread;
use super::targets::{PerformanceTarget, Side, targets};
use super::warnings::warnings;
use crate::chain_check::CheckResult;

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When it began, RFC 3339.
    pub at: String,
    /// Whether it was ended early; the last round may lack benchmark cases.
    pub interrupted: bool,
    /// Cores of this machine, which all processes share.
    pub cores: usize,
    /// Version of PostgreSQL.
    pub postgres: String,
    /// Whether this is a build for speed; figures of another one mean nothing.
    pub is_release: bool,
    /// Whether the raw limit waits for the disk at each commit.
    pub raw_is_synchronous: bool,
    /// Measured seconds of each turn.
    pub seconds: f64,
    /// The benchmark cases, in the order of their numbers.
    #[serde(rename = "contestants")]
    pub cases: Vec<Row>,
    /// Targets of which all that counts was measured.
    #[serde(rename = "marks")]
    pub targets: Vec<PerformanceTarget>,
    /// Why these figures are not to be trusted; empty when nothing speaks against them.
    #[serde(rename = "doubts")]
    pub warnings: Vec<String>,
    /// Every turn of every round.
    pub rounds: Vec<Round>,
    /// Result of `chain-verify` at the end, when pghc was measured.
    pub verify: Option<CheckResult>,
}

/// One benchmark case over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The benchmark case.
    #[serde(rename = "contestant")]
    pub case: BenchmarkCase,
    /// Its rate in each round.
    pub rounds: Vec<f64>,
    /// Its rate.
    pub per_second: Spread,
    /// Median latency of an operation in milliseconds.
    pub p50_ms: Option<Spread>,
    /// Latency that 99 of 100 operations kept, in milliseconds.
    pub p99_ms: Option<Spread>,
    /// Operations that were refused, over all rounds.
    pub failures: u64,
    /// The text of the first failure.
    pub first_failure: Option<String>,
    /// Cores that the client was busy with.
    pub client_cores: Option<Spread>,
    /// Further figures, by name.
    pub figures: Vec<(&'static str, Spread)>,
}

impl Row {
    /// `None` when the benchmark case had no turn.
    fn of(case: BenchmarkCase, rounds: &[Round]) -> Option<Self> {
        let turns: Vec<_> =
            rounds.iter().flat_map(|round| &round.turns).filter(|turn| turn.case == case).collect();
        let spread = |figure: &str| Spread::of(turns.iter().filter_map(|t| t.sample.get(figure)));
        let mut names: Vec<_> =
            turns.iter().flat_map(|turn| turn.sample.figures.keys().copied()).collect();
        names.sort_unstable();
        names.dedup();
        Some(Self {
            case,
            rounds: turns.iter().map(|turn| turn.sample.per_second).collect(),
            per_second: spread("per_second")?,
            p50_ms: spread("p50_ms"),
            p99_ms: spread("p99_ms"),
            failures: turns.iter().map(|turn| turn.sample.failures).sum(),
            first_failure: turns.iter().find_map(|turn| turn.sample.first_failure.clone()),
            client_cores: Spread::of(turns.iter().filter_map(|turn| turn.client_cores)),
            figures: names.into_iter().filter_map(|name| Some((name, spread(name)?))).collect(),
        })
    }
}

impl Report {
    pub(super) fn new(
        options: &Options,
        rounds: Vec<Round>,
        postgres: String,
        verify: Option<CheckResult>,
    ) -> std::io::Result<Self> {
        let targets = targets(&rounds);
        let is_release = !cfg!(debug_assertions);
        let mut warnings = warnings(&rounds, &targets);
        let interrupted = options.stop.is_cancelled();
        if interrupted {
            warnings.insert(0, "INTERRUPTED: not everything was measured".to_owned());
        }
        if !is_release {
            warnings.insert(0, "this is a debug build: build with --release".to_owned());
        }
        Ok(Self {
            interrupted,
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            cores: std::thread::available_parallelism()?.get(),
            postgres,
            is_release,
            raw_is_synchronous: options.raw_is_synchronous,
            seconds: options.length.as_secs_f64(),
            cases: BenchmarkCase::ALL.iter().filter_map(|one| Row::of(*one, &rounds)).collect(),
            warnings,
            targets,
            rounds,
            verify,
        })
    }

    /// The conditions of the run, in one line.
    pub(super) fn conditions(&self) -> String {
        let Self { cores, postgres, seconds, rounds, .. } = self;
        let commit = if self.raw_is_synchronous { "on" } else { "off" };
        format!(
            "{cores} cores shared by all, the client too; PostgreSQL {postgres}; rounds: {}; \
             {seconds} s a turn; raw limit with synchronous_commit {commit}; median (min to max)",
            rounds.len()
        )
    }
}

/// A table without lines, whose first column is text and whose others are figures.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(row(header.iter().map(ToString::to_string)));
    table
}

/// The first cell is a name, the others are figures.
pub(super) fn row(cells: impl IntoIterator<Item = String>) -> Vec<Cell> {
    let align = |(place, text)| match place {
        0 => Cell::new(text),
        _ => Cell::new(text).set_alignment(CellAlignment::Right),
    };
    cells.into_iter().enumerate().map(align).collect()
}

/// A spread as text with `digits` decimal places.
pub(super) fn told(spread: &Spread, digits: usize) -> String {
    let Spread { median, min, max } = *spread;
    if min == max {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

/// As [`told`], `-` where there is none.
pub(super) fn told_or_dash(spread: Option<&Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| told(spread, digits))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "INTERRUPTED: what follows is what was measured until then")?;
        }
        writeln!(f, "{}", self.conditions())?;
        let mut rates =
            table(&["contestant", "per second", "p50 ms", "p99 ms", "failed", "client cores"]);
        for one in &self.cases {
            rates.add_row(row([
                one.case.to_string(),
                told(&one.per_second, 0),
                told_or_dash(one.p50_ms.as_ref(), 2),
                told_or_dash(one.p99_ms.as_ref(), 2),
                one.failures.to_string(),
                told_or_dash(one.client_cores.as_ref(), 2),
            ]));
        }
        writeln!(f, "{}", rates.trim_fmt())?;
        self.fmt_details(f)?;
        if !self.targets.is_empty() {
            let mut targets = table(&["mark", "median (min to max)", "should be", "verdict"]);
            for target in &self.targets {
                let side = match target.side {
                    Side::AtLeast => ">=",
                    Side::AtMost => "<=",
                };
                let should = format!("{side} {:.2}", target.threshold);
                let cells = [target.name.to_owned(), told(&target.value, 2), should];
                targets.add_row(row(cells.into_iter().chain([target.conclusion().to_owned()])));
            }
            writeln!(f, "\n{}", targets.trim_fmt())?;
        }
        if self.warnings.is_empty() {
            writeln!(f, "\nthe machine was quiet enough to trust these figures")?;
        } else {
            writeln!(f, "\nTOO NOISY TO TRUST, or not enough of it:")?;
            self.warnings.iter().try_for_each(|warning| writeln!(f, "  {warning}"))?;
        }
        match &self.verify {
            Some(check) if check.passed => {
                write!(f, "chain-verify passed: {}", check.line())
            }
            Some(check) => write!(f, "chain-verify DID NOT PASS:\n{}", check.report.trim_end()),
            None => Ok(()),
        }
    }
}

impl Report {
    /// Writes the figures without a column of their own.
    fn fmt_details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.cases {
            let figures = one.figures.iter().map(|(name, spread)| {
                let digits = if spread.max < 100.0 { 2 } else { 0 };
                format!("{name} {}", told(spread, digits))
            });
            let figures: Vec<_> = figures.collect();
            if !figures.is_empty() {
                writeln!(f, "{}: {}", one.case.key(), figures.join(", "))?;
            }
            if let Some(reason) = &one.first_failure {
                writeln!(f, "{}: first failure: {reason}", one.case.key())?;
            }
        }
        Ok(())
    }
}
