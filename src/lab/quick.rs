//! `geo-load quick`: writes in every zone for some seconds, and a report that says how long they
//! took, who led, how exact the instruments were, and whether the zones hold one chain.
//!
//! Invariant: the run passes only if every planned write was acknowledged, the books agree with the
//! chain, and `chain-verify` proved it.

use std::fmt;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::histogram::{Latencies, Summary};
use super::ledger::{self, Balance};
use super::load::{self, Fate, LoadOptions, ZoneLoad};
use super::target::Target;
use super::verdict::{self, Verdict};
use crate::wan;

/// Length of the warm-up, which opens connections and fills caches and is not measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// Lateness of the generator above which its latencies are doubtful.
const SLIP_P99_MS_MAX: f64 = 1.0;
/// Lateness of the emulator above which they are.
const EMULATOR_P50_US_MAX: u64 = 500;

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct ZoneReport {
    /// The zone.
    pub zone: String,
    /// Writes sent.
    pub sent: u64,
    /// Acknowledged.
    pub ok: u64,
    /// Refused.
    pub errors: u64,
    /// Without an answer that says.
    pub unknown: u64,
    /// Planned, but not sent: the generator's backlog was full.
    pub dropped: u64,
    /// From the planned time to the acknowledgement.
    pub latency: Summary,
    /// From the real sending to the acknowledgement.
    pub service: Summary,
    /// What went wrong, by kind.
    pub failures: std::collections::BTreeMap<String, u64>,
}

/// The report of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was asked for: writes a second in each zone.
    pub rate: f64,
    /// And for how long, in seconds.
    pub seconds: f64,
    /// Makes the same plan again.
    pub seed: u64,
    /// Zone of the leader at the end, where one is known.
    pub leader: Option<String>,
    /// Raft term at the end; a higher one than at the start means that the leader changed.
    pub term: u64,
    /// Raft term at the start.
    pub term_at_start: u64,
    /// The zones.
    pub zones: Vec<ZoneReport>,
    /// All zones together.
    pub all: ZoneReport,
    /// How late requests left the generator.
    pub slip: Summary,
    /// How late the emulator of the network was, when this program ran one.
    pub emulator: Option<wan::Stats>,
    /// Writes of the warm-up that were not acknowledged.
    pub warm_up_failures: u64,
    /// The books against the chain.
    pub balance: Balance,
    /// What `chain-verify` said.
    pub verify: Verdict,
    /// Why the latencies are less exact than they look; empty when the instruments kept up.
    pub doubts: Vec<String>,
    /// Whether all of it is as it must be.
    pub passed: bool,
}

/// Drives `target` and reports. `emulator` is asked at the end for its own error.
///
/// # Errors
/// When the parade cannot be reached or verified at all; a run that merely fails is a report.
pub async fn run(
    target: &Target,
    options: &LoadOptions,
    emulator: Option<&wan::Wan>,
) -> anyhow::Result<Report> {
    let first = &target.zones[0].nodes[0];
    let term_at_start = target.status().await?.term;
    let warm = LoadOptions { length: WARM_UP, ..options.clone() };
    let warmed = load::drive(target, &warm, &run_name()).await;
    let after = ledger::frontier(first).await?;
    let name = run_name();
    let loads = load::drive(target, options, &name).await;
    let books: Vec<_> = loads.iter().map(ZoneLoad::book).collect();
    let balance = ledger::settle(first, after, &name, &books).await?;
    let verify = verdict::verify(target).await?;
    let status = target.status().await?;

    let zones: Vec<_> = loads.iter().map(ZoneReport::new).collect();
    let all = ZoneReport::of_all(&loads);
    let failed = all.errors + all.unknown + all.dropped;
    let mut slip = Latencies::default();
    loads.iter().for_each(|load| slip.merge(&load.slip));
    let (slip, emulator) = (slip.summary(), emulator.map(wan::Wan::stats));
    let is_not_written = |fate| !matches!(fate, Fate::Written(_));
    Ok(Report {
        rate: options.rate,
        seconds: options.length.as_secs_f64(),
        seed: options.seed,
        leader: status.leader_zone,
        term: status.term,
        term_at_start,
        passed: failed == 0 && all.ok > 0 && balance.agrees() && verify.passed,
        zones,
        all,
        doubts: doubts(slip, emulator),
        slip,
        emulator,
        warm_up_failures: warmed.iter().map(|load| load.count(is_not_written)).sum(),
        balance,
        verify,
    })
}

/// What the instruments say against their own figures.
fn doubts(slip: Summary, emulator: Option<wan::Stats>) -> Vec<String> {
    let late = slip.p99_ms > SLIP_P99_MS_MAX;
    let slip = late.then(|| {
        format!("1 of 100 writes left {:.1} ms late or more: this machine is busy", slip.p99_ms)
    });
    let emulator = emulator.filter(|stats| stats.late_p50_us > EMULATOR_P50_US_MAX).map(|stats| {
        let late = stats.late_p50_us;
        format!("half of what crosses zones was {late} us late or more by the emulator's own fault")
    });
    slip.into_iter().chain(emulator).collect()
}

/// A name no other run has.
fn run_name() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

impl ZoneReport {
    fn new(load: &ZoneLoad) -> Self {
        let dropped = load.count(|fate| fate == Fate::Dropped);
        Self {
            zone: load.zone.clone(),
            sent: load.fates.len() as u64 - dropped,
            ok: load.count(|fate| matches!(fate, Fate::Written(_))),
            errors: load.count(|fate| fate == Fate::Refused),
            unknown: load.count(|fate| fate == Fate::Unknown),
            dropped,
            latency: load.latency.summary(),
            service: load.service.summary(),
            failures: load.failures.clone(),
        }
    }

    fn of_all(loads: &[ZoneLoad]) -> Self {
        let mut all = ZoneLoad { zone: "all".to_owned(), ..ZoneLoad::default() };
        for load in loads {
            all.fates.extend_from_slice(&load.fates);
            all.latency.merge(&load.latency);
            all.service.merge(&load.service);
            for (kind, count) in &load.failures {
                *all.failures.entry(kind.clone()).or_default() += count;
            }
        }
        Self::new(&all)
    }

    fn row(&self) -> Vec<Cell> {
        let Summary { p50_ms, p90_ms, p99_ms, max_ms } = self.latency;
        let counts = [self.sent, self.ok, self.errors, self.unknown, self.dropped];
        let counts = counts.map(|count| count.to_string());
        let times = [p50_ms, p90_ms, p99_ms, max_ms].map(|ms| format!("{ms:.1}"));
        let figures = counts.into_iter().chain(times).map(right);
        std::iter::once(Cell::new(&self.zone)).chain(figures).collect()
    }
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, seconds, seed) = (self.rate, self.seconds, self.seed);
        writeln!(
            f,
            "{rate} writes/s in each zone for {seconds} s, seed {seed}; times in ms from the planned sending"
        )?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let names = ["sent", "ok", "errors", "unknown", "dropped", "p50", "p90", "p99", "max"];
        table.set_header(std::iter::once(Cell::new("zone")).chain(names.map(right)));
        for zone in self.zones.iter().chain([&self.all]) {
            table.add_row(zone.row());
        }
        writeln!(f, "{}", table.trim_fmt())?;
        for (kind, count) in &self.all.failures {
            writeln!(f, "failures   {count} x {kind}")?;
        }
        if self.warm_up_failures > 0 {
            writeln!(f, "warm-up    {} writes were not acknowledged", self.warm_up_failures)?;
        }
        let leader = self.leader.as_deref().unwrap_or("none known");
        let changes = self.term.saturating_sub(self.term_at_start);
        writeln!(f, "leader     {leader}, term {}, {changes} elections during the run", self.term)?;
        if let Some(wan) = &self.emulator {
            let late = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
            let (p50, p99) = (late(wan.late_p50_us), late(wan.late_p99_us));
            writeln!(
                f,
                "emulator   late by p50 {p50:.2} p99 {p99:.2} ms, {} payloads",
                wan.payloads
            )?;
        }
        let slip = self.slip;
        writeln!(f, "generator  late by p50 {:.2} p99 {:.2} ms", slip.p50_ms, slip.p99_ms)?;
        let Balance { found, lost, repeated, misnumbered, unwanted, .. } = self.balance;
        writeln!(
            f,
            "chain      {found} writes of this run; lost {lost}, repeated {repeated}, \
             misnumbered {misnumbered}, unwanted {unwanted}"
        )?;
        if self.all.unknown > 0 {
            let Balance { unknown_written, unknown_absent, .. } = self.balance;
            writeln!(f, "unknown    {unknown_written} are in the chain, {unknown_absent} are not")?;
        }
        if !self.verify.passed {
            writeln!(f, "{}", self.verify.report.trim_end())?;
        }
        for doubt in &self.doubts {
            writeln!(f, "doubt      {doubt}")?;
        }
        let code = self.verify.exit_code.map_or("a signal".to_owned(), |code| code.to_string());
        let verdict = if self.verify.passed { "passed" } else { "DID NOT PASS" };
        writeln!(f, "verify     {verdict} (exit {code}): {}", self.verify.line())?;
        write!(f, "result     {}", if self.passed { "passed" } else { "FAILED" })
    }
}
