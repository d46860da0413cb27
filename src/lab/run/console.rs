//! An outcome on a terminal.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::outcome::{Outcome, ZoneOutcome};
use crate::histogram::Summary;
use crate::write_audit::WriteAudit;

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn row(outcome: &Outcome, zone: &ZoneOutcome) -> Vec<Cell> {
    let Summary { p50_ms, p90_ms, p99_ms, max_ms } = zone.latency;
    let counts = [zone.sent, zone.ok, zone.refused, zone.unknown, zone.dropped];
    let times = [p50_ms, p90_ms, p99_ms, zone.p999_ms, max_ms].map(|ms| format!("{ms:.1}"));
    let held = outcome.held(zone).into_iter().zip([1, 2, 1, 2]);
    let held = held.map(|(value, digits)| optional(value, digits));
    let figures = counts.map(|count| count.to_string()).into_iter().chain(times).chain(held);
    std::iter::once(Cell::new(&zone.zone)).chain(figures.map(right)).collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let names = [
            "sent", "ok", "refused", "unknown", "dropped", "p50", "p90", "p99", "p99.9", "max",
            "limit", "x limit", "model", "x model",
        ];
        table.set_header(std::iter::once(Cell::new("zone")).chain(names.map(right)));
        for zone in self.zones.iter().filter(|zone| zone.sent > 0).chain([&self.all]) {
            table.add_row(row(self, zone));
        }
        writeln!(f, "{}", table.trim_fmt())?;
        if self.zones.iter().any(|zone| zone.limit_ms.is_some()) {
            let ms = self.mean_p50_ms();
            writeln!(f, "mean of the zones' medians {ms:.1}, which `all` holds against the limit")?;
        }
        self.reads(f)?;
        self.spread(f)?;
        self.events(f)?;
        self.proof(f)
    }
}

impl Outcome {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leader = self.leader.as_deref().unwrap_or("none known");
        let build = if self.optimised { "" } else { "  DEBUG BUILD" };
        writeln!(
            f,
            "geo-load  {}  seed {}  {} s + {} s warm-up  leader {leader}{build}",
            self.name, self.seed, self.seconds, self.warmup_s
        )?;
        if self.interrupted {
            writeln!(f, "INTERRUPTED: what follows is of the time until then")?;
        }
        if !self.about.is_empty() {
            writeln!(f, "{}", self.about)?;
        }
        if self.is_virtual {
            writeln!(f, "{}", super::outcome::VIRTUAL)?;
        }
        if self.voters.len() < self.zones.len() {
            writeln!(f, "voters     {}", self.voters.join(", "))?;
        }
        writeln!(f, "writes, ms from the planned sending until applied in the writer's own zone")
    }

    fn reads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for read in &self.reads {
            let (zone, op, ok, failed) = (&read.zone, read.op.as_str(), read.ok, read.failed);
            let Summary { p50_ms, p99_ms, .. } = read.latency;
            writeln!(f, "{zone}  {op}: {ok} ok, {failed} not, p50 {p50_ms:.1} p99 {p99_ms:.1}")?;
        }
        Ok(())
    }

    fn spread(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.all.failures {
            writeln!(f, "failures   {count} x {kind}")?;
        }
        if let Some(Summary { p50_ms, p99_ms, .. }) = self.visible_everywhere {
            let slowest =
                self.visibility.iter().max_by(|a, b| a.latency.p50_ms.total_cmp(&b.latency.p50_ms));
            let slowest = slowest.map(|cell| format!("{} -> {}", cell.from, cell.to));
            writeln!(
                f,
                "visible in all zones  p50 {p50_ms:.1} p99 {p99_ms:.1}   slowest pair {}",
                slowest.unwrap_or_default()
            )?;
        }
        for zone in self.zones.iter().filter(|zone| !zone.timing_ms.is_empty()) {
            let parts = zone.timing_ms.iter().map(|(part, ms)| format!("{part} {ms:.1}"));
            writeln!(f, "split {}  {}", zone.zone, parts.collect::<Vec<_>>().join("  "))?;
        }
        Ok(())
    }

    fn events(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            let length = event.to_s - event.from_s;
            write!(f, "fault      {:.1} s: {} for {length:.1} s", event.from_s, event.what)?;
            match &event.error {
                Some(error) => writeln!(f, ": NOT DONE: {error}")?,
                None => writeln!(
                    f,
                    "; other zones without an acknowledgement for {:.2} s at most",
                    event.unavailable_s
                )?,
            }
        }
        for leader_term in self.leader_terms.iter().filter(|leader_term| leader_term.to_s > 0.0) {
            let zone = leader_term.zone.as_deref().unwrap_or("nobody");
            write!(
                f,
                "leader     {:.1} s: {zone} (term {})",
                leader_term.from_s.max(0.0),
                leader_term.term
            )?;
            if let Some(ms) = leader_term.p50_ms {
                write!(f, "; p50 by writes {ms:.1}")?;
            }
            match leader_term.model_ms {
                Some(ms) => writeln!(f, ", by the formula {ms:.1}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }

    fn proof(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WriteAudit { found, lost, repeated, misnumbered, unwanted, .. } = self.audit;
        writeln!(
            f,
            "chain      {found} writes of this run; lost {lost}, repeated {repeated}, misnumbered \
             {misnumbered}, unwanted {unwanted}"
        )?;
        let WriteAudit { unknown_written, unknown_absent, .. } = self.audit;
        if unknown_written + unknown_absent > 0 {
            writeln!(f, "unknown    {unknown_written} are in the chain, {unknown_absent} are not")?;
        }
        if self.warm_up_failures > 0 {
            writeln!(f, "warm-up    {} writes were not acknowledged", self.warm_up_failures)?;
        }
        if !self.verify.passed {
            writeln!(f, "{}", self.verify.report.trim_end())?;
        }
        writeln!(f, "verify     {}", self.verify.line())?;
        write!(f, "exactness  requests left late by p99 {:.2} ms", self.slip.p99_ms)?;
        if let Some(check) = self.emulator_check {
            let ms = |us: u64| std::time::Duration::from_micros(us).as_secs_f64() * 1e3;
            let (p50, p99) = (ms(check.late_p50_us), ms(check.late_p99_us));
            write!(f, "; emulator at start p50 {p50:.2} p99 {p99:.2} ms")?;
        }
        if let Some(stats) = self.emulator {
            let ms = |us: u64| std::time::Duration::from_micros(us).as_secs_f64() * 1e3;
            let (p50, p99) = (ms(stats.late_p50_us), ms(stats.late_p99_us));
            write!(f, ", in the run p50 {p50:.2} p99 {p99:.2} ms")?;
        }
        if let Some(cpu) = self.cpu {
            write!(f, "; processors {:.0} % in use", cpu * 100.0)?;
        }
        writeln!(f)?;
        for judged in &self.slo {
            let word = if judged.ok { "OK" } else { "MISSED" };
            writeln!(
                f,
                "hope       {} {} (limit {}): {word}",
                judged.what, judged.got, judged.limit
            )?;
        }
        for reason in &self.invalid {
            writeln!(f, "invalid    {reason}")?;
        }
        let valid = match (self.interrupted, self.invalid.is_empty()) {
            (true, _) => "INTERRUPTED",
            (false, true) => "VALID",
            (false, false) => "INVALID",
        };
        write!(f, "result     {valid}, {}", if self.passed { "passed" } else { "FAILED" })
    }
}
