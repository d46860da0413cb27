//! Directory of a run: all data for a later analysis, in formats of common tools.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::Finished;
use super::environment::Environment;
use super::outcome::Outcome;
use super::scenario::Scenario;
use crate::load::{Log, Op};

/// Name of the file that holds the outcome.
pub const SUMMARY: &str = "summary.json";
/// Name of the page for people.
pub const REPORT: &str = "report.html";

/// Longest latency told apart in histogram logs, in microseconds.
const MICROS_MAX: u64 = 3_600_000_000;

/// Writes everything about a run into `directory`, which is created.
///
/// # Errors
/// When the directory cannot be written.
pub fn write(directory: &Path, scenario: &Scenario, finished: &Finished) -> anyhow::Result<()> {
    let outcome = &finished.outcome;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    put("scenario.toml", toml::to_string(scenario)?.as_bytes())?;
    put(SUMMARY, &serde_json::to_vec_pretty(outcome)?)?;
    put("env.json", &serde_json::to_vec_pretty(&Environment::of(outcome))?)?;
    put("zones.csv", zones(outcome).as_bytes())?;
    put("timeline.csv", timeline(outcome).as_bytes())?;
    put("events.csv", events(outcome).as_bytes())?;
    put("visibility.csv", visibility(outcome).as_bytes())?;
    put("report.txt", format!("{outcome}\n").as_bytes())?;
    let names: Vec<&str> = outcome.zones.iter().map(|zone| zone.zone.as_str()).collect();
    put("latency.hlog", &histograms(scenario, &finished.logs, &names)?)?;
    put(REPORT, crate::report::page(outcome).as_bytes())
}

/// Reads the outcome of a run from its directory, or from the file itself.
///
/// # Errors
/// When there is none, or it is of another version.
pub fn read(path: &Path) -> anyhow::Result<Outcome> {
    let file = if path.is_dir() { path.join(SUMMARY) } else { path.to_owned() };
    let text = fs::read(&file).with_context(|| {
        format!("cannot read {}; is that the directory of a run?", file.display())
    })?;
    let outcome: Outcome = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not the outcome of a run", file.display()))?;
    anyhow::ensure!(
        outcome.version == super::VERSION,
        "{} is of version {}, not {}; run the scenario again",
        file.display(),
        outcome.version,
        super::VERSION
    );
    Ok(outcome)
}

fn zones(outcome: &Outcome) -> String {
    let mut text = "zone,sent,ok,refused,unknown,dropped,retries,p50_ms,p90_ms,p99_ms,p999_ms,\
                    max_ms,service_p50_ms,limit_ms,model_ms\n"
        .to_owned();
    for zone in outcome.zones.iter().chain([&outcome.all]) {
        let counts = [zone.sent, zone.ok, zone.refused, zone.unknown, zone.dropped, zone.retries];
        let l = zone.latency;
        let times =
            [l.p50_ms, l.p90_ms, l.p99_ms, zone.p999_ms, l.max_ms, zone.service.p50_ms].map(Some);
        let times = times.into_iter().chain([zone.limit_ms, zone.model_ms]);
        let times = times.map(|ms| ms.map_or(String::new(), |ms| format!("{ms:.3}")));
        let cells = counts.map(|count| count.to_string()).into_iter().chain(times);
        let cells: Vec<String> = std::iter::once(zone.zone.clone()).chain(cells).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

fn timeline(outcome: &Outcome) -> String {
    let mut text = "second,zone,ok,failed,p50_ms,p99_ms\n".to_owned();
    for point in &outcome.timeline {
        let super::outcome::Point { second, zone, ok, failed, p50_ms, p99_ms } = point;
        text.push_str(&format!("{second},{zone},{ok},{failed},{p50_ms:.3},{p99_ms:.3}\n"));
    }
    text
}

fn events(outcome: &Outcome) -> String {
    let mut text = "from_s,to_s,kind,what,unavailable_s\n".to_owned();
    for event in &outcome.events {
        // Commas would be further cells.
        let what = event.what.replace(',', " ");
        let (from, to, away) = (event.from_s, event.to_s, event.unavailable_s);
        text.push_str(&format!("{from:.3},{to:.3},fault,{what},{away:.3}\n"));
    }
    for leader_term in &outcome.leader_terms {
        let zone = leader_term.zone.as_deref().unwrap_or("nobody");
        let (from, to) = (leader_term.from_s, leader_term.to_s);
        text.push_str(&format!("{from:.3},{to:.3},leader,{zone} term {},\n", leader_term.term));
    }
    text
}

fn visibility(outcome: &Outcome) -> String {
    let mut text = "from,to,count,p50_ms,p90_ms,p99_ms,max_ms\n".to_owned();
    for cell in &outcome.visibility {
        let (from, to, count, l) = (&cell.from, &cell.to, cell.count, cell.latency);
        let times = [l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms].map(|ms| format!("{ms:.3}"));
        text.push_str(&format!("{from},{to},{count},{}\n", times.join(",")));
    }
    text
}

/// An interval log in the format of HdrHistogram: a histogram of microseconds for each second, zone
/// and kind of request that was answered as asked, tagged `zone.kind`.
fn histograms(scenario: &Scenario, logs: &[Log], zones: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("us from the planned sending; seconds from the start of the warm-up")
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| anyhow::anyhow!("cannot begin a histogram log: {error:?}"))?;
    let seconds = scenario.length().as_secs() + 1;
    let one = Duration::from_secs(1);
    for (place, zone) in zones.iter().enumerate() {
        for op in Op::ALL {
            let mut by_second: Vec<Vec<u64>> = vec![Vec::new(); usize::try_from(seconds)?];
            let ours = logs.iter().filter(|log| log.zone == place).flat_map(|log| &log.samples);
            for sample in ours.filter(|sample| sample.op == op && sample.ok) {
                let second = usize::try_from(sample.planned.as_secs())?;
                if let Some(second) = by_second.get_mut(second) {
                    second.push(u64::try_from(sample.latency.as_micros()).unwrap_or(u64::MAX));
                }
            }
            let tag = format!("{zone}.{}", op.as_str());
            for (second, micros) in by_second.iter().enumerate() {
                if micros.is_empty() {
                    continue;
                }
                let mut histogram = Histogram::<u64>::new_with_bounds(1, MICROS_MAX, 3)?;
                micros.iter().for_each(|us| histogram.saturating_record((*us).max(1)));
                let from = Duration::from_secs(second as u64);
                writer
                    .write_histogram(&histogram, from, one, Tag::new(&tag))
                    .map_err(|error| anyhow::anyhow!("cannot write a histogram: {error:?}"))?;
            }
        }
    }
    drop(writer);
    bytes.flush()?;
    Ok(bytes)
}
