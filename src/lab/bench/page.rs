//! A run as a page: see [`crate::html`].

use super::case::BenchmarkCase;
use super::report::{Report, Row, told, told_or_dash};
use super::targets::{PerformanceTarget, Side};
use crate::html::{Bar, Curves, Line, Page, Tone};

impl Report {
    /// The report as one self-contained HTML page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = Page::new("pghc beside PostgreSQL");
        page.text(&format!("{} · {}", self.at, self.conditions()));
        if !self.warnings.is_empty() {
            page.warnings("Too noisy to trust, or not enough of it", &self.warnings);
        }
        self.targets_section(&mut page);
        self.rates_section(&mut page);
        self.latency_section(&mut page);
        self.curves_section(&mut page);
        if let Some(verify) = &self.verify {
            page.section("Proof");
            page.printed(&verify.report);
        }
        page.finish()
    }

    fn targets_section(&self, page: &mut Page) {
        if self.targets.is_empty() {
            return;
        }
        page.section("Marks");
        let bars: Vec<_> = self.targets.iter().map(target_bar).collect();
        page.bars("A bar is the median, a dot a round, the dashed line the mark.", &bars);
        let rows: Vec<_> = self.targets.iter().map(target_row).collect();
        page.table(&["mark", "median (min to max)", "should be", "verdict"], &rows);
    }

    fn rates_section(&self, page: &mut Page) {
        page.section("Rates");
        let (rows, singles): (Vec<_>, Vec<_>) =
            self.cases.iter().partition(|row| is_of_rows(row.case));
        let bar = |row: &&Row| {
            let name = row.case.to_string();
            Bar::new(&name, &told(&row.per_second, 0), row.rounds.clone())
        };
        let titles =
            [(rows, "Many rows at a time, rows/s"), (singles, "One write at a time, writes/s")];
        for (rows, title) in titles {
            if !rows.is_empty() {
                page.bars(title, &rows.iter().map(bar).collect::<Vec<_>>());
            }
        }
        let rows: Vec<_> = self.cases.iter().map(row_cells).collect();
        page.table(
            &["contestant", "per second", "p50 ms", "p99 ms", "failed", "client cores"],
            &rows,
        );
    }

    fn latency_section(&self, page: &mut Page) {
        let turns = |case, figure: &'static str| -> Vec<f64> {
            self.rounds.iter().filter_map(|round| round.get(case, figure)).collect()
        };
        let mut bars = Vec::new();
        for row in self.cases.iter().filter(|row| !is_of_rows(row.case)) {
            for (figure, spread) in [("p50_ms", &row.p50_ms), ("p99_ms", &row.p99_ms)] {
                if let Some(spread) = spread {
                    let name = format!("{}, {}", row.case, &figure[..3]);
                    bars.push(Bar::new(&name, &told(spread, 2), turns(row.case, figure)));
                }
            }
        }
        if !bars.is_empty() {
            page.section("Latency");
            page.text(
                "One client: from the planned time. The others are closed loops, whose latency \
                 says how long their own queue is.",
            );
            page.bars("Milliseconds", &bars);
        }
    }

    /// The curves of the last round that has some; the others are in the JSON.
    fn curves_section(&self, page: &mut Page) {
        for case in BenchmarkCase::ALL {
            let mut turns = self.rounds.iter().rev().flat_map(|round| &round.turns);
            let found = turns.find(|turn| turn.case == *case && !turn.sample.curves.is_empty());
            let Some(turn) = found else { continue };
            page.section(&case.to_string());
            let curves = &turn.sample.curves;
            let line = |curve: &super::Curve| Line {
                name: curve.name.clone(),
                points: curve.points.clone(),
            };
            page.curves(&Curves {
                title: "Over time".to_owned(),
                x: "s".to_owned(),
                y: curves[0].unit.to_owned(),
                lines: curves.iter().map(line).collect(),
            });
        }
    }
}

/// Whether it does many rows at a time, so that its rate is on another scale.
fn is_of_rows(case: BenchmarkCase) -> bool {
    matches!(
        case,
        BenchmarkCase::Raw
            | BenchmarkCase::RawOne
            | BenchmarkCase::Bulk
            | BenchmarkCase::Far
            | BenchmarkCase::CatchUp
            | BenchmarkCase::Verify
    )
}

fn tone(target: &PerformanceTarget) -> Tone {
    match (target.met, target.certain) {
        (_, false) => Tone::Unsure,
        (true, true) => Tone::Good,
        (false, true) => Tone::Bad,
    }
}

fn target_bar(target: &PerformanceTarget) -> Bar {
    // Each target has its own unit; the target line is at the same position in all bars.
    let full = (target.threshold * 1.5).max(target.value.max);
    let figure = format!("{:.2}", target.value.median);
    Bar {
        mark: Some(target.threshold),
        tone: tone(target),
        full: Some(full),
        ..Bar::new(target.name, &figure, target.rounds.clone())
    }
}

fn target_row(target: &PerformanceTarget) -> Vec<(String, Tone)> {
    let side = match target.side {
        Side::AtLeast => "≥",
        Side::AtMost => "≤",
    };
    vec![
        (target.name.to_owned(), Tone::Plain),
        (told(&target.value, 2), Tone::Plain),
        (format!("{side} {:.2}", target.threshold), Tone::Plain),
        (target.conclusion().to_owned(), tone(target)),
    ]
}

fn row_cells(row: &Row) -> Vec<(String, Tone)> {
    [
        row.case.to_string(),
        told(&row.per_second, 0),
        told_or_dash(row.p50_ms.as_ref(), 2),
        told_or_dash(row.p99_ms.as_ref(), 2),
        row.failures.to_string(),
        told_or_dash(row.client_cores.as_ref(), 2),
    ]
    .map(|text| (text, Tone::Plain))
    .into()
}
