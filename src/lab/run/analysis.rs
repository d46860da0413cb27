//! From raw logs to an [`Outcome`]: pure, so that it can be tested without a deployment.

use std::collections::BTreeMap;
use std::time::Duration;

use pghc_wan::Matrix;

use super::faults::Event;
use super::outcome::{Judged, Outcome, Point, ReadOutcome, Visible, ZoneOutcome, at, summary_of};
use super::scenario::Scenario;
use super::watch::{LeaderTerm, Steps};
use crate::histogram::{Latencies, Summary};
use crate::load::{Log, Op, Sample, WriteResult};
use crate::predict::model::Model;

/// Lateness of the generator above which latencies are doubtful.
const SLIP_P99_MS_MAX: f64 = 1.0;
/// Lateness of the emulator above which they are.
const EMULATOR_P50_US_MAX: u64 = 500;
/// Use of the processors above which they are.
const CPU_MAX: f64 = 0.9;
/// Fewer writes in a zone say little of its percentiles.
const WRITES_MIN: u64 = 1_000;
/// The same in virtual time, where nothing but the plan is left to chance.
const WRITES_MIN_VIRTUAL: u64 = 100;
/// The halves of the warm-up may differ by this much, beside a millisecond.
const STEADY_MAX: f64 = 0.05;
/// Points of a cumulative curve.
const CDF_POINTS: u32 = 200;
/// How long after its end a fault may still be the cause of silence.
const AFTERMATH_S: f64 = 30.0;

/// Recorded data of a run, besides the fields that the outcome copies unchanged.
#[derive(Debug)]
pub struct Raw<'a> {
    /// The scenario of the run.
    pub scenario: &'a Scenario,
    /// Names of the zones, in the order of the target.
    pub zones: &'a [String],
    /// Their distances.
    pub matrix: Option<&'a Matrix>,
    /// The groups' logs.
    pub logs: &'a [Log],
    /// Frontiers by zone; empty when they were not followed.
    pub steps: &'a [Steps],
    /// The leader terms.
    pub leader_terms: &'a [LeaderTerm],
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Raw<'_> {
    fn of_zone(&self, zone: usize) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(move |log| log.zone == zone)
    }

    fn is_measured(&self, sample: &Sample) -> bool {
        sample.planned >= self.scenario.warmup.0
    }

    /// Zone that led longest after the warm-up.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
        for leader_term in self.leader_terms {
            if let Some(zone) = &leader_term.zone {
                let length = leader_term.to_s.max(0.0) - leader_term.from_s.max(0.0);
                *seconds.entry(zone).or_default() += length;
            }
        }
        let longest = seconds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        longest.map(|(zone, _)| zone.to_owned())
    }

    /// The figures of each zone, and of all together.
    #[must_use]
    pub fn zones(&self) -> (Vec<ZoneOutcome>, ZoneOutcome) {
        let places: Vec<usize> = (0..self.zones.len()).collect();
        let mut zones: Vec<_> =
            places.iter().map(|zone| self.zone(&self.zones[*zone], &[*zone])).collect();
        let mut all = self.zone("all", &places);
        if let Some(matrix) = self.matrix {
            // The limit stays that of all zones voting.
            let (limit, model) = (Model::new(matrix), self.model(matrix));
            let leader = self.leader().and_then(|name| self.zones.iter().position(|z| *z == name));
            for (place, zone) in zones.iter_mut().enumerate() {
                zone.limit_ms = Some(limit.limit(place));
                let commit = self.scenario.cluster.formula();
                zone.model_ms = leader.map(|leader| model.raft(commit, leader, place));
            }
            let wrote = || zones.iter().filter(|zone| zone.ok > 0);
            let count = wrote().count().max(1) as f64;
            all.limit_ms = Some(wrote().filter_map(|zone| zone.limit_ms).sum::<f64>() / count);
            let models: Option<Vec<f64>> = wrote().map(|zone| zone.model_ms).collect();
            all.model_ms = models.map(|models| models.iter().sum::<f64>() / count);
        }
        (zones, all)
    }

    /// The formulae for the voters of the scenario.
    pub(super) fn model(&self, matrix: &Matrix) -> Model {
        let voters = &self.scenario.cluster.voters;
        let votes = |place: &usize| voters.is_empty() || voters.contains(&self.zones[*place]);
        Model::new(matrix).with_voters((0..self.zones.len()).filter(votes).collect())
    }

    fn zone(&self, name: &str, places: &[usize]) -> ZoneOutcome {
        let mut zone = ZoneOutcome { zone: name.to_owned(), ..ZoneOutcome::default() };
        let (mut latency, mut service) = (Vec::new(), Vec::new());
        let mut timing: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
        for log in places.iter().flat_map(|place| self.of_zone(*place)) {
            zone.dropped += log.dropped;
            zone.retries += log.retries;
            for (kind, count) in &log.failures {
                *zone.failures.entry(kind.clone()).or_default() += count;
            }
            for (part, (sum, count)) in &log.timing {
                let entry = timing.entry(part).or_default();
                *entry = (entry.0 + sum, entry.1 + count);
            }
            for write in log.writes.iter().filter(|write| write.planned >= self.scenario.warmup.0) {
                zone.sent += 1;
                match write.result {
                    WriteResult::Written(_) => zone.ok += 1,
                    WriteResult::Refused => zone.refused += 1,
                    WriteResult::Unknown => zone.unknown += 1,
                }
            }
            for sample in log.samples.iter().filter(|s| s.op == Op::Write && s.ok) {
                if self.is_measured(sample) {
                    latency.push(micros(sample.latency));
                    service.push(micros(sample.service));
                }
            }
        }
        zone.latency = summary_of(&mut latency);
        zone.service = summary_of(&mut service);
        zone.p999_ms = at(&latency, 0.999);
        if !latency.is_empty() {
            let share = |point: u32| f64::from(point) / f64::from(CDF_POINTS);
            zone.cdf = (1..=CDF_POINTS).map(|p| (at(&latency, share(p)), share(p))).collect();
        }
        let mean = |(part, (sum, count)): (&str, (f64, u64))| (part.to_owned(), sum / count as f64);
        zone.timing_ms = timing.into_iter().map(mean).collect();
        zone
    }

    /// Reads by zone and kind, those that there were.
    #[must_use]
    pub fn reads(&self) -> Vec<ReadOutcome> {
        let mut reads = Vec::new();
        for (place, zone) in self.zones.iter().enumerate() {
            for op in Op::ALL.into_iter().filter(|op| *op != Op::Write) {
                let (mut latency, mut failed) = (Vec::new(), 0);
                let samples = self.of_zone(place).flat_map(|log| &log.samples);
                for sample in samples.filter(|sample| sample.op == op && self.is_measured(sample)) {
                    if sample.ok {
                        latency.push(micros(sample.latency));
                    } else {
                        failed += 1;
                    }
                }
                if !latency.is_empty() || failed > 0 {
                    let (ok, latency) = (latency.len() as u64, summary_of(&mut latency));
                    reads.push(ReadOutcome { zone: zone.clone(), op, ok, failed, latency });
                }
            }
        }
        reads
    }

    /// Writes by the second in which they were planned.
    #[must_use]
    pub fn timeline(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for (place, zone) in self.zones.iter().enumerate() {
            let mut seconds: BTreeMap<i64, (Vec<u64>, u64)> = BTreeMap::new();
            let samples = self.of_zone(place).flat_map(|log| &log.samples);
            for sample in samples.filter(|sample| sample.op == Op::Write) {
                let since = sample.planned.as_secs_f64() - self.scenario.warmup.0.as_secs_f64();
                #[expect(clippy::cast_possible_truncation, reason = "hours at most")]
                let entry = seconds.entry(since.floor() as i64).or_default();
                if sample.ok {
                    entry.0.push(micros(sample.latency));
                } else {
                    entry.1 += 1;
                }
            }
            for (second, (mut latency, failed)) in seconds {
                let (ok, Summary { p50_ms, p99_ms, .. }) =
                    (latency.len() as u64, summary_of(&mut latency));
                points.push(Point { second, zone: zone.clone(), ok, failed, p50_ms, p99_ms });
            }
        }
        points
    }

    /// From the planned time in one zone until applied in another, and until applied in all.
    #[must_use]
    pub fn visibility(&self) -> (Vec<Visible>, Option<Summary>) {
        if self.steps.len() != self.zones.len() {
            return (Vec::new(), None);
        }
        let (mut cells, mut everywhere) = (Vec::new(), Vec::new());
        for (place, from) in self.zones.iter().enumerate() {
            let mut times = vec![Vec::new(); self.zones.len()];
            for log in self.of_zone(place) {
                let warmup = self.scenario.warmup.0;
                for write in log.writes.iter().filter(|write| write.planned >= warmup) {
                    let WriteResult::Written(id) = write.result else { continue };
                    let seen: Vec<Option<Duration>> =
                        self.steps.iter().map(|steps| steps.reached(id)).collect();
                    for (times, at) in times.iter_mut().zip(&seen) {
                        times.extend(at.map(|at| micros(at.saturating_sub(write.planned))));
                    }
                    let last = seen.into_iter().collect::<Option<Vec<_>>>();
                    let last = last.and_then(|seen| seen.into_iter().max());
                    everywhere.extend(last.map(|at| micros(at.saturating_sub(write.planned))));
                }
            }
            for (to, mut times) in self.zones.iter().zip(times) {
                let (count, latency) = (times.len() as u64, summary_of(&mut times));
                if count > 0 {
                    cells.push(Visible { from: from.clone(), to: to.clone(), count, latency });
                }
            }
        }
        let all = (!everywhere.is_empty()).then(|| summary_of(&mut everywhere));
        (cells, all)
    }

    /// Measures for each fault the longest time without an acknowledgement in the zones that it did
    /// not strike. The time ends with the next fault, whose silence it would be. Zones struck by
    /// another fault meanwhile are left out.
    pub fn measure_faults(&self, events: &mut [Event]) {
        let end = self.scenario.duration.0.as_secs_f64();
        let all = events.to_vec();
        for event in events {
            let later = all.iter().map(|other| other.from_s).filter(|from| *from >= event.to_s);
            let until = later.fold((event.to_s + AFTERMATH_S).min(end), f64::min);
            let struck = |zone: &String| {
                let meanwhile = |other: &&Event| other.from_s < until && other.to_s > event.from_s;
                all.iter().filter(meanwhile).any(|other| other.zones.contains(zone))
            };
            let others = self.zones.iter().enumerate().filter(|(_, zone)| !struck(zone));
            let silences = others.map(|(place, _)| self.silence(place, event.from_s, until));
            event.unavailable_s = silences.fold(0.0, f64::max);
        }
    }

    /// Longest time between two acknowledgements of a zone that overlaps this period, counted to
    /// the end of the period. The whole period without any acknowledgement; 0 for a zone without
    /// writes.
    fn silence(&self, zone: usize, from_s: f64, until_s: f64) -> f64 {
        let warmup = self.scenario.warmup.0.as_secs_f64();
        let samples = self.of_zone(zone).flat_map(|log| &log.samples);
        let written = samples.filter(|sample| sample.op == Op::Write && sample.ok);
        let mut ends: Vec<f64> =
            written.map(|s| (s.planned + s.latency).as_secs_f64() - warmup).collect();
        if self.of_zone(zone).all(|log| log.writes.is_empty()) {
            return 0.0;
        }
        ends.sort_by(f64::total_cmp);
        let before = ends.iter().rev().find(|at| **at <= from_s).copied().unwrap_or(from_s);
        let mut last = before;
        let mut longest = 0.0_f64;
        for at in ends.into_iter().filter(|at| *at > from_s && *at < until_s) {
            longest = longest.max(at - last);
            last = at;
        }
        longest.max(until_s - last)
    }

    /// How late requests of open clients left.
    #[must_use]
    pub fn slip(&self) -> Summary {
        let mut all = Latencies::default();
        self.logs.iter().for_each(|log| all.merge(&log.slip));
        all.summary()
    }

    /// Writes of the warm-up that were not acknowledged.
    #[must_use]
    pub fn warm_up_failures(&self) -> u64 {
        let writes = self.logs.iter().flat_map(|log| &log.writes);
        let failed = writes.filter(|write| {
            write.planned < self.scenario.warmup.0
                && !matches!(write.result, WriteResult::Written(_))
        });
        failed.count() as u64
    }

    /// By how much the medians of the warm-up's halves differ, and the later one; `None` when there
    /// are too few writes to say.
    fn unsteadiness(&self) -> Option<(f64, f64)> {
        const WRITES: usize = 50;
        let half = self.scenario.warmup.0 / 2;
        let mut halves = [Vec::new(), Vec::new()];
        for sample in self.logs.iter().flat_map(|log| &log.samples) {
            if sample.op == Op::Write && sample.ok && !self.is_measured(sample) {
                halves[usize::from(sample.planned >= half)].push(micros(sample.latency));
            }
        }
        if halves.iter().any(|half| half.len() < WRITES) {
            return None;
        }
        let [first, last] = halves.each_mut().map(|half| summary_of(half).p50_ms);
        Some(((first - last).abs(), last))
    }

    /// Why the figures are not to be trusted.
    #[must_use]
    pub fn invalid(&self, outcome: &Outcome) -> Vec<String> {
        let mut reasons = Vec::new();
        if outcome.slip.p99_ms > SLIP_P99_MS_MAX {
            let late = outcome.slip.p99_ms;
            reasons.push(format!("1 of 100 requests left {late:.1} ms late or more"));
        }
        let late = outcome.emulator.map(|stats| stats.late_p50_us);
        if let Some(late) = late.filter(|late| *late > EMULATOR_P50_US_MAX) {
            reasons.push(format!("half of what crosses zones was {late} us late or more"));
        }
        if let Some(cpu) = outcome.cpu.filter(|cpu| *cpu > CPU_MAX) {
            reasons.push(format!("{:.0} % of the processors were in use", cpu * 100.0));
        }
        let least = if outcome.is_virtual { WRITES_MIN_VIRTUAL } else { WRITES_MIN };
        let few = |zone: &&ZoneOutcome| zone.sent > 0 && zone.ok < least;
        for zone in outcome.zones.iter().filter(few) {
            let (name, ok) = (&zone.zone, zone.ok);
            reasons.push(format!("{name} has {ok} writes; percentiles need {least}"));
        }
        if let Some((differ, last)) = self.unsteadiness()
            && differ > 1.0 + STEADY_MAX * last
        {
            reasons
                .push(format!("the warm-up was not steady: its halves differ by {differ:.1} ms"));
        }
        for event in outcome.events.iter().filter(|event| event.error.is_some()) {
            let (what, error) = (&event.what, event.error.as_deref().unwrap_or_default());
            reasons.push(format!("{what}: {error}"));
        }
        reasons
    }
}

/// Compares the outcome with the scenario's targets.
#[must_use]
pub fn evaluate(scenario: &Scenario, outcome: &Outcome) -> Vec<Judged> {
    let slo = &scenario.slo;
    let mut judged = Vec::new();
    let mut judge = |what: &str, limit: String, got: String, ok: bool| {
        judged.push(Judged { what: what.to_owned(), limit, got, ok });
    };
    let all = &outcome.all;
    if let Some(limit) = slo.p99 {
        let limit = limit.0.as_secs_f64() * 1e3;
        let got = all.latency.p99_ms;
        judge("p99", format!("{limit} ms"), format!("{got:.1} ms"), got <= limit);
    }
    let failed = all.refused + all.unknown + all.dropped;
    let share = failed as f64 / (all.sent + all.dropped).max(1) as f64;
    let limit = slo.errors.unwrap_or(0.0);
    judge("errors", format!("{limit}"), format!("{share:.5}"), share <= limit);
    if let Some(limit) = slo.ratio_to_limit {
        let got = outcome.mean_limit_ms().filter(|l| *l > 0.0).map(|l| outcome.mean_p50_ms() / l);
        let text = got.map_or("no distances".to_owned(), |got| format!("{got:.2}"));
        judge("ratio to the limit", format!("{limit}"), text, got.is_some_and(|got| got <= limit));
    }
    if let Some(limit) = slo.recovery {
        let longest = outcome.events.iter().map(|event| event.unavailable_s).fold(0.0, f64::max);
        let ok = longest <= limit.0.as_secs_f64();
        judge("recovery", limit.to_string(), format!("{longest:.2} s"), ok);
    }
    judged
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pghc_wan::Matrix;

    use super::Raw;
    use crate::load::{Log, Op, Sample, Write, WriteResult};
    use crate::run::faults::Event;
    use crate::run::scenario::Scenario;
    use crate::run::watch::{LeaderTerm, Steps};

    const MS: Duration = Duration::from_millis(1);

    fn scenario() -> Scenario {
        let text = "name = 'x'\nduration = '10s'\nwarmup = '1s'\n[matrix]\nfile = 'aws3'\n\
                    [[clients]]\nzone = '*'\nrate = 10";
        Scenario::parse(text, &[]).expect("a good scenario")
    }

    /// A write every 100 ms that takes 100 ms, but none acknowledged from 5.0 to 7.05 s.
    fn log(zone: usize) -> Log {
        let mut log = Log { zone, name: format!("{zone}/0"), ..Log::default() };
        for number in 0..110_u32 {
            let planned = number * 100 * MS;
            let stalled = (50..71).contains(&number);
            let latency = if stalled { 7_150 * MS - planned } else { 100 * MS };
            let result = WriteResult::Written(u64::from(number) + 1);
            log.writes.push(Write { planned, result });
            log.samples.push(Sample {
                op: Op::Write,
                planned,
                latency,
                service: latency,
                ok: true,
            });
        }
        log
    }

    #[test]
    fn logs_become_figures_with_recoveries() {
        let (scenario, matrix) = (scenario(), Matrix::find("aws3").expect("built in"));
        let zones: Vec<String> = matrix.zones().iter().map(ToString::to_string).collect();
        let logs: Vec<Log> = (0..3).map(log).collect();
        let steps = |late: Duration| {
            Steps((0..110_u32).map(|n| (n * 100 * MS + late, u64::from(n) + 1)).collect())
        };
        let steps = [steps(100 * MS), steps(150 * MS), steps(200 * MS)];
        let leader_term = |from_s, to_s, zone: &str| LeaderTerm {
            from_s,
            to_s,
            zone: Some(zone.to_owned()),
            term: 1,
            ..LeaderTerm::default()
        };
        let leader_terms =
            [leader_term(-9.0, 1.0, "eu-west-1"), leader_term(1.0, 10.0, "us-east-1")];
        let raw = Raw {
            scenario: &scenario,
            zones: &zones,
            matrix: Some(&matrix),
            logs: &logs,
            steps: &steps,
            leader_terms: &leader_terms,
        };
        assert_eq!(raw.leader().as_deref(), Some("us-east-1"), "the warm-up does not count");
        let mut measured = leader_terms.to_vec();
        raw.measure_leader_terms(Some(&raw.model(&matrix)), &mut measured);
        let of = |leader_term: &LeaderTerm| {
            (leader_term.p50_ms.map(f64::round), leader_term.model_ms.map(f64::round))
        };
        assert_eq!(of(&measured[0]), (Some(100.0), Some(113.0)), "{measured:?}");
        assert_eq!(of(&measured[1]), (Some(100.0), Some(96.0)), "{measured:?}");
        let (by_zone, all) = raw.zones();
        assert_eq!((by_zone[0].sent, by_zone[0].ok, all.ok), (100, 100, 300));
        assert!((by_zone[1].latency.p50_ms - 100.0).abs() < 1e-6, "{:?}", by_zone[1].latency);
        assert_eq!(by_zone[2].model_ms.map(f64::round), Some(149.0));
        assert_eq!(by_zone[0].cdf.len(), 200);
        assert!(by_zone[0].cdf.is_sorted());
        let (cells, everywhere) = raw.visibility();
        assert_eq!(cells.len(), 9);
        let medians: Vec<f64> = cells[..3].iter().map(|cell| cell.latency.p50_ms).collect();
        assert_eq!(medians, [100.0, 150.0, 200.0]);
        assert!((everywhere.expect("all of them").p50_ms - 200.0).abs() < 1e-6);
        let timeline = raw.timeline();
        assert_eq!(timeline.len(), 33);
        assert_eq!((timeline[0].second, timeline[0].ok), (-1, 10));
        let mut events = [Event {
            what: "cut".to_owned(),
            zones: vec!["us-east-1".to_owned()],
            from_s: 4.0,
            to_s: 6.0,
            error: None,
            unavailable_s: 0.0,
        }];
        raw.measure_faults(&mut events);
        // From 5.0 s, the last acknowledgement, to 7.15 s: both counted from the warm-up's start.
        assert!((events[0].unavailable_s - 2.15).abs() < 1e-6, "{:?}", events[0]);

        // Another fault begins in the midst of the silence, and is the cause of the rest.
        let next = Event { from_s: 5.5, to_s: 5.6, zones: Vec::new(), ..events[0].clone() };
        let mut two = [Event { to_s: 5.0, ..events[0].clone() }, next];
        raw.measure_faults(&mut two);
        assert!((two[0].unavailable_s - 1.5).abs() < 1e-6, "{two:?}");
        assert!((two[1].unavailable_s - 2.15).abs() < 1e-6, "{two:?}");

        let mut deaf = log(1);
        deaf.samples.iter_mut().for_each(|sample| sample.ok = false);
        let logs = [log(0), deaf];
        Raw { logs: &logs, ..raw }.measure_faults(&mut events);
        assert!((events[0].unavailable_s - 6.0).abs() < 1e-6, "no answer at all: {:?}", events[0]);
    }
}
