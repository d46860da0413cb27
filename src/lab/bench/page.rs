//! A run as a page: see [`crate::lab::html`].

use super::contestant::Contestant;
use super::marks::{Mark, Side};
use super::report::{Report, Row, told, told_or_dash};
use crate::lab::html::{Bar, Curves, Line, Page, Tone};

impl Report {
    /// The report as one self-contained HTML page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = Page::new("pghc beside PostgreSQL");
        page.text(&format!("{} · {}", self.at, self.conditions()));
        if !self.doubts.is_empty() {
            page.warnings("Too noisy to trust, or not enough of it", &self.doubts);
        }
        self.marks_section(&mut page);
        self.rates_section(&mut page);
        self.latency_section(&mut page);
        self.curves_section(&mut page);
        if let Some(verify) = &self.verify {
            page.section("Proof");
            page.printed(&verify.report);
        }
        page.finish()
    }

    fn marks_section(&self, page: &mut Page) {
        if self.marks.is_empty() {
            return;
        }
        page.section("Marks");
        let bars: Vec<_> = self.marks.iter().map(mark_bar).collect();
        page.bars("A bar is the median, a dot a round, the dashed line the mark.", &bars);
        let rows: Vec<_> = self.marks.iter().map(mark_row).collect();
        page.table(&["mark", "median (min to max)", "should be", "verdict"], &rows);
    }

    fn rates_section(&self, page: &mut Page) {
        page.section("Rates");
        let (rows, singles): (Vec<_>, Vec<_>) =
            self.contestants.iter().partition(|row| is_of_rows(row.contestant));
        let bar = |row: &&Row| {
            let name = row.contestant.to_string();
            Bar::new(&name, &told(&row.per_second, 0), row.rounds.clone())
        };
        let titles =
            [(rows, "Many rows at a time, rows/s"), (singles, "One write at a time, writes/s")];
        for (rows, title) in titles {
            if !rows.is_empty() {
                page.bars(title, &rows.iter().map(bar).collect::<Vec<_>>());
            }
        }
        let rows: Vec<_> = self.contestants.iter().map(row_cells).collect();
        page.table(
            &["contestant", "per second", "p50 ms", "p99 ms", "failed", "client cores"],
            &rows,
        );
    }

    fn latency_section(&self, page: &mut Page) {
        let turns = |contestant, figure: &'static str| -> Vec<f64> {
            self.rounds.iter().filter_map(|round| round.get(contestant, figure)).collect()
        };
        let mut bars = Vec::new();
        for row in self.contestants.iter().filter(|row| !is_of_rows(row.contestant)) {
            for (figure, spread) in [("p50_ms", &row.p50_ms), ("p99_ms", &row.p99_ms)] {
                if let Some(spread) = spread {
                    let name = format!("{}, {}", row.contestant, &figure[..3]);
                    bars.push(Bar::new(&name, &told(spread, 2), turns(row.contestant, figure)));
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
        for contestant in Contestant::ALL {
            let mut turns = self.rounds.iter().rev().flat_map(|round| &round.turns);
            let found =
                turns.find(|turn| turn.contestant == *contestant && !turn.sample.curves.is_empty());
            let Some(turn) = found else { continue };
            page.section(&contestant.to_string());
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
fn is_of_rows(contestant: Contestant) -> bool {
    matches!(
        contestant,
        Contestant::Raw
            | Contestant::RawOne
            | Contestant::Bulk
            | Contestant::Far
            | Contestant::CatchUp
            | Contestant::Verify
    )
}

fn tone(mark: &Mark) -> Tone {
    match (mark.met, mark.certain) {
        (_, false) => Tone::Unsure,
        (true, true) => Tone::Good,
        (false, true) => Tone::Bad,
    }
}

fn mark_bar(mark: &Mark) -> Bar {
    // Each has a unit of its own; the mark stands at the same place in all.
    let full = (mark.mark * 1.5).max(mark.value.max);
    let figure = format!("{:.2}", mark.value.median);
    Bar {
        mark: Some(mark.mark),
        tone: tone(mark),
        full: Some(full),
        ..Bar::new(mark.name, &figure, mark.rounds.clone())
    }
}

fn mark_row(mark: &Mark) -> Vec<(String, Tone)> {
    let side = match mark.side {
        Side::AtLeast => "≥",
        Side::AtMost => "≤",
    };
    vec![
        (mark.name.to_owned(), Tone::Plain),
        (told(&mark.value, 2), Tone::Plain),
        (format!("{side} {:.2}", mark.mark), Tone::Plain),
        (mark.verdict().to_owned(), tone(mark)),
    ]
}

fn row_cells(row: &Row) -> Vec<(String, Tone)> {
    [
        row.contestant.to_string(),
        told(&row.per_second, 0),
        told_or_dash(row.p50_ms.as_ref(), 2),
        told_or_dash(row.p99_ms.as_ref(), 2),
        row.failures.to_string(),
        told_or_dash(row.client_cores.as_ref(), 2),
    ]
    .map(|text| (text, Tone::Plain))
    .into()
}
