//! `geo-load sweep`: the same scenario at many rates, or up to the highest that keeps what is hoped.

use std::str::FromStr;

use pghc_wan::conditions::parse_duration;

use super::outcome::Outcome;
use super::scenario::{ArrivalWord, Scenario};
use crate::report::Step;

/// Most runs of a search.
pub const RUNS_MAX: usize = 16;

/// Targets of a rate: `p50<…`, `p99<…` (times), `err<…%`, joined by commas.
#[derive(Debug, Clone, PartialEq)]
pub struct Until {
    p50_ms: f64,
    p99_ms: f64,
    errors: f64,
}

impl Until {
    /// Whether a step keeps it.
    #[must_use]
    pub fn holds(&self, step: &Step) -> bool {
        step.done > 0.0
            && step.p50_ms < self.p50_ms
            && step.p99_ms < self.p99_ms
            && (step.errors < self.errors || step.errors == 0.0)
    }
}

impl Default for Until {
    /// Nothing but that all is acknowledged.
    fn default() -> Self {
        Self { p50_ms: f64::INFINITY, p99_ms: f64::INFINITY, errors: 0.0 }
    }
}

impl FromStr for Until {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut until = Self::default();
        for part in text.split(',') {
            let wrong = || format!("{part:?} is none of p50<250ms, p99<1s, err<0.1%");
            let (name, limit) = part.split_once('<').ok_or_else(wrong)?;
            match name.trim() {
                "p50" => until.p50_ms = parse_duration(limit)?.as_secs_f64() * 1e3,
                "p99" => until.p99_ms = parse_duration(limit)?.as_secs_f64() * 1e3,
                "err" => {
                    let percent = limit.trim().strip_suffix('%').ok_or_else(wrong)?;
                    let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
                    until.errors = percent / 100.0;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(until)
    }
}

/// The scenario with every open client at `rate` in each zone, and no phases.
///
/// # Errors
/// A sentence, when no client group has a rate.
pub fn at_rate(scenario: &Scenario, rate: f64) -> Result<Scenario, String> {
    let mut scenario = scenario.clone();
    scenario.phases.clear();
    let mut open = 0;
    for clients in scenario.clients.iter_mut().filter(|c| c.arrival != ArrivalWord::Closed) {
        clients.rate = rate;
        open += 1;
    }
    if open == 0 { Err("no clients of this scenario have a rate".to_owned()) } else { Ok(scenario) }
}

/// Result of a run at `rate` in each zone.
#[must_use]
pub fn step_of(scenario: &Scenario, outcome: &Outcome, until: &Until) -> Step {
    let zones = outcome.zones.len();
    let of = |clients: &super::scenario::Clients| {
        let places = if clients.zone == "*" { zones } else { 1 };
        let mix = &clients.mix;
        let all = mix.write + mix.read_local + mix.read_session + mix.read_linear;
        clients.rate * places as f64 * mix.write / all
    };
    let all = &outcome.all;
    let failed = all.refused + all.unknown + all.dropped;
    let mut step = Step {
        offered: scenario.clients.iter().map(of).sum(),
        done: all.ok as f64 / outcome.seconds,
        p50_ms: all.latency.p50_ms,
        p99_ms: all.latency.p99_ms,
        errors: failed as f64 / (all.sent + all.dropped).max(1) as f64,
        ok: false,
    };
    step.ok = until.holds(&step);
    step
}

/// Which rates to try: doubled until one fails, then halves of what lies between, until that is
/// within a tenth. Pure: told of each outcome, it names the next.
#[derive(Debug, Clone)]
pub struct Search {
    good: Option<f64>,
    bad: Option<f64>,
    next: f64,
    runs: usize,
}

impl Search {
    /// A search that begins at `rate`, above 0.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        Self { good: None, bad: None, next: rate, runs: 0 }
    }

    /// The next rate to try; `None`: found, or given up.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let near = self.good.zip(self.bad).is_some_and(|(good, bad)| bad / good < 1.1);
        (self.runs < RUNS_MAX && !near && self.next >= 1.0).then_some(self.next)
    }

    /// Notes how the newest rate went.
    pub fn note(&mut self, ok: bool) {
        self.runs += 1;
        if ok { &mut self.good } else { &mut self.bad }.replace(self.next);
        self.next = match (self.good, self.bad) {
            (Some(good), Some(bad)) => f64::midpoint(good, bad),
            (Some(good), None) => good * 2.0,
            (None, _) => self.next / 2.0,
        };
    }

    /// The highest rate that went well.
    #[must_use]
    pub fn highest(&self) -> Option<f64> {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::{Search, Until, at_rate};
    use crate::report::Step;
    use crate::run::scenario::Scenario;

    #[test]
    fn a_search_finds_the_highest_rate_that_goes_well() {
        for (first, limit) in [(50.0, 777.0), (5_000.0, 120.0), (100.0, 110.0)] {
            let mut search = Search::new(first);
            while let Some(rate) = search.next() {
                search.note(rate <= limit);
            }
            let found = search.highest().expect("a rate goes well");
            assert!(found <= limit && found > limit / 1.11, "{found} of {limit}");
        }
        let mut never = Search::new(50.0);
        while never.next().is_some() {
            never.note(false);
        }
        assert_eq!(never.highest(), None);
        let mut always = Search::new(50.0);
        while always.next().is_some() {
            always.note(true);
        }
        assert!(always.highest().is_some(), "it ends");
    }

    #[test]
    fn rate_is_judged_by_latency_target() {
        let until: Until = "p99<250ms, err<0.1%".parse().expect("a good condition");
        let step =
            Step { offered: 9.0, done: 9.0, p50_ms: 5.0, p99_ms: 200.0, errors: 0.0, ok: false };
        assert!(until.holds(&step));
        assert!(!until.holds(&Step { p99_ms: 300.0, ..step }));
        assert!(!until.holds(&Step { errors: 0.002, ..step }));
        assert!(Until::default().holds(&step), "nothing failed");
        assert!("p98<1s".parse::<Until>().is_err() && "err<1".parse::<Until>().is_err());
    }

    #[test]
    fn sweep_rate_replaces_phases() {
        let scenario = Scenario::find("saturation", &[]).expect("built in");
        let scenario = at_rate(&scenario, 70.0).expect("it has a rate");
        assert!(scenario.phases.is_empty());
        assert!(scenario.clients.iter().all(|clients| (clients.rate - 70.0).abs() < 1e-9));
        assert!(at_rate(&Scenario::find("original", &[]).expect("built in"), 1.0).is_err());
    }
}
