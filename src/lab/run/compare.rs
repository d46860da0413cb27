//! `geo-load compare`: whether two runs differ by more than chance.
//!
//! Each second's percentile is one observation. The interval of a difference comes from drawing the
//! seconds of both runs again and again, with replacement; runs of the same seed draw the same.

use std::fmt;
use std::str::FromStr;

use comfy_table::{Cell, CellAlignment, Table, presets};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::outcome::{Outcome, Point};

/// Draws behind an interval.
const DRAWS: usize = 2_000;

/// A percentile that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The median.
    P50,
    /// 99 of 100.
    P99,
}

/// When a comparison fails: `p50>5%`, `p99>20%`, joined by commas. Only what is surely worse fails.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FailIf(Vec<(Metric, f64)>);

impl FromStr for FailIf {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let one = |part: &str| {
            let wrong = || format!("{part:?} is none of p50>5%, p99>20%");
            let (name, limit) = part.split_once('>').ok_or_else(wrong)?;
            let metric = match name.trim() {
                "p50" => Metric::P50,
                "p99" => Metric::P99,
                _ => return Err(wrong()),
            };
            let limit = limit.trim().trim_start_matches('+').strip_suffix('%').ok_or_else(wrong)?;
            Ok((metric, limit.parse::<f64>().map_err(|_| wrong())? / 100.0))
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// One zone and percentile in both runs.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The zone.
    pub zone: String,
    /// The percentile.
    pub metric: Metric,
    /// Median over the seconds of the first run, in ms.
    pub before_ms: f64,
    /// Of the second.
    pub after_ms: f64,
    /// The second against the first: 0.05 is 5 % slower.
    pub change: f64,
    /// 95 of 100 draws lie between these.
    pub interval: (f64, f64),
    /// Worse by more than was allowed, surely.
    pub fails: bool,
}

/// All of them.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Names of the runs.
    pub runs: [String; 2],
    /// Zone by zone.
    pub differences: Vec<Difference>,
    /// Reasons that limit the value of the comparison.
    pub doubts: Vec<String>,
}

/// Compares the zones that both runs have.
#[must_use]
pub fn compare(before: &Outcome, after: &Outcome, fail_if: &FailIf) -> Comparison {
    let mut differences = Vec::new();
    for zone in &before.zones {
        for metric in [Metric::P50, Metric::P99] {
            let (a, b) = (seconds(before, &zone.zone, metric), seconds(after, &zone.zone, metric));
            if a.is_empty() || b.is_empty() {
                continue;
            }
            let (before_ms, after_ms) = (median(a.clone()), median(b.clone()));
            let interval = interval(&a, &b, before.seed ^ after.seed);
            let limit = fail_if.0.iter().find(|(other, _)| *other == metric);
            differences.push(Difference {
                zone: zone.zone.clone(),
                metric,
                before_ms,
                after_ms,
                change: after_ms / before_ms.max(1e-9) - 1.0,
                interval,
                fails: limit.is_some_and(|(_, limit)| interval.0 > *limit),
            });
        }
    }
    let mut doubts = Vec::new();
    for outcome in [before, after].into_iter().filter(|outcome| !outcome.invalid.is_empty()) {
        let reasons = outcome.invalid.join("; ");
        doubts.push(format!("{} of {} is INVALID: {reasons}", outcome.name, outcome.started));
    }
    if before.optimised != after.optimised {
        doubts.push("one of the programs was built without optimisations".to_owned());
    }
    if before.name != after.name || before.leader != after.leader {
        doubts.push("the scenarios or their leaders differ".to_owned());
    }
    let name = |outcome: &Outcome| {
        let label = outcome.label.as_ref().map(|label| format!(" {label}")).unwrap_or_default();
        format!("{}{label} of {}", outcome.name, outcome.started)
    };
    Comparison { runs: [name(before), name(after)], differences, doubts }
}

impl Comparison {
    /// Whether nothing is surely worse than was allowed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.differences.iter().any(|difference| difference.fails)
    }
}

fn seconds(outcome: &Outcome, zone: &str, metric: Metric) -> Vec<f64> {
    let measured = |point: &&Point| point.zone == zone && point.second >= 0 && point.ok > 0;
    let value = |point: &Point| match metric {
        Metric::P50 => point.p50_ms,
        Metric::P99 => point.p99_ms,
    };
    outcome.timeline.iter().filter(measured).map(value).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn interval(a: &[f64], b: &[f64], seed: u64) -> (f64, f64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut draw = |values: &[f64]| {
        median((0..values.len()).map(|_| values[random.random_range(0..values.len())]).collect())
    };
    let mut changes: Vec<f64> = (0..DRAWS).map(|_| draw(b) / draw(a).max(1e-9) - 1.0).collect();
    changes.sort_by(f64::total_cmp);
    (changes[DRAWS * 25 / 1000], changes[DRAWS * 975 / 1000])
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["zone", "what", "first ms", "second ms", "change", "95 % between", ""]);
        for d in &self.differences {
            let percent = |share: f64| format!("{:+.1} %", share * 100.0);
            let sure = d.interval.0 > 0.0 || d.interval.1 < 0.0;
            let word = if d.fails {
                "WORSE"
            } else if sure {
                "differs"
            } else {
                "no difference"
            };
            table.add_row([
                Cell::new(&d.zone),
                Cell::new(format!("{:?}", d.metric).to_lowercase()),
                right(format!("{:.1}", d.before_ms)),
                right(format!("{:.1}", d.after_ms)),
                right(percent(d.change)),
                right(format!("{} and {}", percent(d.interval.0), percent(d.interval.1))),
                Cell::new(word),
            ]);
        }
        writeln!(f, "first   {}\nsecond  {}", self.runs[0], self.runs[1])?;
        write!(f, "{}", table.trim_fmt())?;
        for doubt in &self.doubts {
            write!(f, "\ndoubt   {doubt}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{FailIf, Metric, interval, median};

    #[test]
    fn comparison_reports_only_real_differences() {
        let wave = |around: f64| (0..30).map(|s| around + f64::from(s % 5)).collect::<Vec<_>>();
        let (low, high) = interval(&wave(100.0), &wave(100.0), 7);
        assert!(low <= 0.0 && high >= 0.0, "{low} {high}");
        let (low, high) = interval(&wave(100.0), &wave(120.0), 7);
        assert!(low > 0.1 && high < 0.3, "{low} {high}");
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn conditions_are_read() {
        let wanted = FailIf(vec![(Metric::P50, 0.05), (Metric::P99, 0.2)]);
        assert_eq!("p50>+5%,p99>20%".parse::<FailIf>(), Ok(wanted));
        assert!("p50<5%".parse::<FailIf>().is_err() && "max>5%".parse::<FailIf>().is_err());
    }
}
