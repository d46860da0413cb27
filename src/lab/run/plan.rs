//! When one group of open clients sends, while its rate changes: a pure function of the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::scenario::{Phase, Scenario};
use crate::pacer::Arrival;

/// A rate over the time of a run.
#[derive(Debug, Clone)]
pub struct Curve {
    base: f64,
    phases: Vec<Phase>,
    warmup: Duration,
}

impl Curve {
    /// The rate of clients of `zone` whose usual rate is `base`. Phases count from the end of the
    /// warm-up.
    #[must_use]
    pub fn new(base: f64, zone: &str, scenario: &Scenario) -> Self {
        let ours = |phase: &&Phase| phase.zone == "*" || phase.zone == zone;
        let mut phases: Vec<Phase> = scenario.phases.iter().filter(ours).cloned().collect();
        phases.sort_by_key(|phase| phase.at);
        Self { base, phases, warmup: scenario.warmup.0 }
    }

    /// The same rate all the time.
    #[must_use]
    pub const fn even(rate: f64) -> Self {
        Self { base: rate, phases: Vec::new(), warmup: Duration::ZERO }
    }

    /// Requests a second at `at`, counted from the start of the warm-up.
    #[must_use]
    pub fn at(&self, at: Duration) -> f64 {
        let (mut rate, mut now) = (self.base, None);
        for phase in &self.phases {
            let begin = self.warmup + phase.at.0;
            if at < begin {
                break;
            }
            let over = phase.over.map_or(Duration::ZERO, |over| over.0);
            let share = (at - begin).as_secs_f64() / over.as_secs_f64().max(1e-9);
            now = None;
            if let Some(step) = phase.step {
                rate = step;
            } else if let Some([from, to]) = phase.ramp {
                rate = from + (to - from) * share.min(1.0);
            } else if let Some([low, high]) = phase.sine {
                let (middle, swing) = (f64::midpoint(low, high), (high - low) / 2.0);
                rate = middle + swing * (std::f64::consts::TAU * share).sin();
            } else if let Some(burst) = phase.burst.filter(|_| share < 1.0) {
                now = Some(burst);
            }
        }
        now.unwrap_or(rate)
    }

    /// The highest rate it ever has.
    #[must_use]
    pub fn highest(&self) -> f64 {
        let of_phase = |phase: &Phase| {
            let ramp = phase.ramp.map_or(0.0, |[from, to]| from.max(to));
            let sine = phase.sine.map_or(0.0, |[low, high]| low.max(high));
            phase.step.unwrap_or(0.0).max(phase.burst.unwrap_or(0.0)).max(ramp).max(sine)
        };
        self.phases.iter().map(of_phase).fold(self.base, f64::max)
    }
}

/// Planned times from the start of the warm-up, in order.
#[derive(Debug)]
pub struct Times {
    curve: Curve,
    arrival: Arrival,
    highest: f64,
    next: Duration,
    end: Duration,
    random: StdRng,
}

impl Times {
    /// The times of one group until `end`.
    #[must_use]
    pub fn new(curve: Curve, arrival: Arrival, end: Duration, seed: u64) -> Self {
        let highest = curve.highest();
        let mut random = StdRng::seed_from_u64(seed);
        let next = match arrival {
            Arrival::Poisson => Duration::ZERO,
            // Groups shall not send all at once.
            Arrival::Uniform => {
                let gap = 1.0 / curve.at(Duration::ZERO).max(1e-3);
                Duration::from_secs_f64(gap * random.random_range(0.0..1.0))
            }
        };
        Self { curve, arrival, highest, next, end, random }
    }
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        /// Where there is no rate, it is looked again after this long.
        const PAUSE: Duration = Duration::from_millis(10);
        if self.highest <= 0.0 {
            return None;
        }
        loop {
            match self.arrival {
                Arrival::Uniform => {
                    let (now, rate) = (self.next, self.curve.at(self.next));
                    if now >= self.end {
                        return None;
                    }
                    if rate > 0.0 {
                        self.next += Duration::from_secs_f64(1.0 / rate).min(self.end);
                        return Some(now);
                    }
                    self.next += PAUSE;
                }
                // Thinning: as many as at the highest rate, each kept by its share of that.
                Arrival::Poisson => {
                    let exponential = -(1.0 - self.random.random_range(0.0..1.0_f64)).ln();
                    self.next += Duration::from_secs_f64(exponential / self.highest).min(self.end);
                    if self.next >= self.end {
                        return None;
                    }
                    let share = self.curve.at(self.next) / self.highest;
                    if self.random.random_bool(share.clamp(0.0, 1.0)) {
                        return Some(self.next);
                    }
                }
            }
        }
    }
}

/// A seed of its own for each part of a run, from the run's seed and the part's name.
#[must_use]
pub fn seed_of(seed: u64, part: &str) -> u64 {
    // FNV-1a: stable over versions, unlike the standard hasher.
    part.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Curve, Times, seed_of};
    use crate::pacer::Arrival;
    use crate::run::scenario::Scenario;

    fn curve(phases: &str) -> Curve {
        let text = format!(
            "name = 'x'\nduration = '90s'\nwarmup = '10s'\nphase = [{phases}]\n\
             [[clients]]\nzone = 'eu'\nrate = 100\n"
        );
        Curve::new(100.0, "eu", &Scenario::parse(&text, &[]).expect(&text))
    }

    #[test]
    fn phase_changes_rate_until_next_phase() {
        let curve = curve(
            "{at='10s', step=50}, {at='20s', ramp=[50, 150], over='10s'}, {at='40s', burst=400, over='5s'}, \
             {at='20s', zone='us', step=9}",
        );
        let rates: Vec<f64> =
            [0, 19, 20, 30, 35, 45, 52, 56, 99].map(|s| curve.at(Duration::from_secs(s))).into();
        assert_eq!(rates, [100.0, 100.0, 50.0, 50.0, 100.0, 150.0, 400.0, 150.0, 150.0]);
        assert!((curve.highest() - 400.0).abs() < 1e-9);
    }

    #[test]
    fn a_sine_swings_between_its_rates_until_the_next_phase() {
        let curve = curve("{at='0s', sine=[50, 150], over='40s'}, {at='60s', step=7}");
        let rates: Vec<f64> =
            [10, 20, 30, 40, 50, 60, 75].map(|s| curve.at(Duration::from_secs(s))).into();
        for (got, wanted) in rates.iter().zip([100.0, 150.0, 100.0, 50.0, 100.0, 150.0, 7.0]) {
            assert!((got - wanted).abs() < 1e-6, "{rates:?}");
        }
        assert!((curve.highest() - 150.0).abs() < 1e-9);
    }

    #[test]
    fn arrival_times_follow_curve_by_seed() {
        for arrival in [Arrival::Poisson, Arrival::Uniform] {
            let phases = "{at='40s', step=400}, {at='80s', step=0}";
            let end = Duration::from_secs(100);
            let times = |seed| Times::new(curve(phases), arrival, end, seed).collect::<Vec<_>>();
            let got = times(seed_of(7, "eu"));
            assert_eq!(got, times(seed_of(7, "eu")));
            assert_ne!(got, times(seed_of(7, "us")));
            assert!(got.is_sorted());
            let before = got.iter().filter(|at| at.as_secs() < 50).count();
            let during = got.iter().filter(|at| (50..90).contains(&at.as_secs())).count();
            // 5,000 and 16,000 expected; six standard deviations of Poisson counts.
            assert!(before.abs_diff(5_000) < 430, "{arrival:?} {before}");
            assert!(during.abs_diff(16_000) < 760, "{arrival:?} {during}");
            assert_eq!(before + during, got.len(), "{arrival:?}");
        }
    }
}
