//! `geo-load bench scale`: what becomes of throughput and latency as zones, payloads and the chain
//! grow.
//!
//! Points of one table take turns in rounds, as benchmark cases do. The chain grows once, and is
//! measured at a tenth, half, and all of its links.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use pghc_runtime::output;
use pghc_runtime::task::Tasks;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::closed::Window;
use super::measure::{self, Measure, WARM_UP};
use super::report::{row, table, told, told_or_dash};
use super::spread::Spread;
use super::zones::Zones;
use super::{disturbed_zones, load, proof};
use crate::chain_check::{self, CheckResult};
use crate::html::{Curves, Line, Page, Tone};
use crate::site::{Site, SiteOptions};

/// Zones of the deployments whose payloads and chain grow.
const ZONES: usize = 3;
/// Size of a payload where something else grows.
const PAYLOAD_BYTES: usize = measure::PAYLOAD_BYTES;
/// Longest period of growth between two checks of the chain's length.
const GROW: Duration = Duration::from_secs(5);
/// Links verified at each measurement; all links of a shorter chain.
const VERIFIED: u64 = 200_000;

/// The growing dimension.
#[derive(Debug, Clone)]
pub struct Options {
    /// Numbers of zones, 1 to 9 each; empty: no such table.
    pub zones: Vec<usize>,
    /// Sizes of payloads in bytes, 0 for `null`; empty: no such table.
    pub payloads: Vec<usize>,
    /// Links of the longest chain; 0: no such table.
    pub links: u64,
    /// How many turns each point has, from 1; the chain grows only once.
    pub rounds: usize,
    /// Measured time of each turn.
    pub length: Duration,
    /// Ends the tables after the turn under way.
    pub stop: CancellationToken,
}

/// One point of a table of zones or payloads.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Number of zones, or bytes of payload.
    pub at: usize,
    /// Single writes over 64 connections.
    pub single_per_second: Spread,
    /// Bulk writes, applied in every zone.
    pub bulk_per_second: Spread,
    /// Median latency of one client, from the planned time.
    pub alone_p50_ms: Spread,
    /// As before.
    pub alone_p99_ms: Spread,
}

/// The chain at one length.
#[derive(Debug, Clone, Serialize)]
pub struct Length {
    /// Links it had.
    pub links: u64,
    /// Bulk writes, applied in every zone.
    pub bulk_per_second: f64,
    /// Links a second that a zone applied which had been away; none with one zone.
    pub catch_up_per_second: f64,
    /// Links a second that chain-verify proved in each zone, of the newest ones.
    pub verify_per_second: f64,
    /// Rows a second that PostgreSQL copied out, of the same.
    pub copy_per_second: f64,
    /// Most memory chain-verify took.
    pub verifier_mib: Option<f64>,
    /// Size of the table without its index, in the first zone.
    pub table_mib: f64,
    /// Size of its index.
    pub index_mib: f64,
    /// Size of the first coordinator's directory: its log, bounded by purging.
    pub log_mib: f64,
}

/// Result of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Cores of this machine.
    pub cores: usize,
    /// Measured seconds of each turn.
    pub seconds: f64,
    /// Turns of each point.
    pub rounds: usize,
    /// Whether this is a build for speed.
    pub is_release: bool,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// By number of zones.
    pub zones: Vec<Point>,
    /// By size of a payload.
    pub payloads: Vec<Point>,
    /// By length of the chain.
    pub lengths: Vec<Length>,
    /// Result of `chain-verify` for each deployment.
    pub verify: Vec<CheckResult>,
}

impl Report {
    /// Whether every chain was proved.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.interrupted && self.verify.iter().all(|check| check.passed)
    }
}

/// A deployment while it is measured. The caller that opens a deployment closes it.
#[derive(Debug, Default)]
pub struct Stage {
    site: Option<Site>,
    tasks: Tasks,
}

impl Stage {
    async fn open(&mut self, zones: usize) -> anyhow::Result<()> {
        self.close_site().await;
        let options = SiteOptions { zones: Some(zones), ..SiteOptions::default() };
        self.site = Some(Site::open(&options).await?);
        Ok(())
    }

    fn site(&self) -> anyhow::Result<&Site> {
        self.site.as_ref().context("no deployment is up")
    }

    async fn zones(&self) -> anyhow::Result<Zones> {
        Zones::connect(self.site()?.target(), &self.tasks).await
    }

    async fn close_site(&mut self) {
        if let Some(site) = self.site.take() {
            site.close().await;
        }
    }

    /// Stops what runs.
    pub async fn close(mut self) {
        self.close_site().await;
        self.tasks.shut_down().await;
    }
}

/// Measures all tables.
///
/// # Errors
/// When a deployment does not start, or refuses most of what is sent.
pub async fn run(stage: &mut Stage, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report {
        cores: std::thread::available_parallelism()?.get(),
        seconds: options.length.as_secs_f64(),
        rounds: options.rounds,
        is_release: !cfg!(debug_assertions),
        interrupted: false,
        zones: Vec::new(),
        payloads: Vec::new(),
        lengths: Vec::new(),
        verify: Vec::new(),
    };
    let mut turns = vec![Vec::new(); options.zones.len()];
    for round in 0..options.rounds {
        for place in rotated(options.zones.len(), round) {
            if options.stop.is_cancelled() {
                break;
            }
            let zones = options.zones[place];
            output::complain(&format!("round {} of {}: {zones} zones", round + 1, options.rounds));
            stage.open(zones).await?;
            turns[place].push(one_turn(stage, PAYLOAD_BYTES, options.length).await?);
            report.verify.push(chain_check::verify_at_rest(stage.site()?.target()).await?);
        }
    }
    report.zones = points(&options.zones, &turns);
    if !options.payloads.is_empty() && !options.stop.is_cancelled() {
        stage.open(ZONES).await?;
        let mut turns = vec![Vec::new(); options.payloads.len()];
        for round in 0..options.rounds {
            for place in rotated(options.payloads.len(), round) {
                if options.stop.is_cancelled() {
                    break;
                }
                let bytes = options.payloads[place];
                output::complain(&format!(
                    "round {} of {}: {bytes} bytes of payload",
                    round + 1,
                    options.rounds
                ));
                turns[place].push(one_turn(stage, bytes, options.length).await?);
            }
        }
        report.verify.push(chain_check::verify_at_rest(stage.site()?.target()).await?);
        report.payloads = points(&options.payloads, &turns);
    }
    if options.links > 0 && !options.stop.is_cancelled() {
        stage.open(ZONES).await?;
        for links in [options.links / 10, options.links / 2, options.links] {
            report.lengths.extend(at_length(stage, links, options).await?);
        }
        report.verify.push(chain_check::verify_at_rest(stage.site()?.target()).await?);
    }
    report.interrupted = options.stop.is_cancelled();
    stage.close_site().await;
    Ok(report)
}

/// The places of a table in the order of round `round`.
fn rotated(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round) % count)
}

/// Figures of one point in one round.
#[derive(Debug, Clone, Copy)]
struct Turn {
    single: f64,
    bulk: f64,
    p50_ms: f64,
    p99_ms: f64,
}

async fn one_turn(stage: &Stage, bytes: usize, length: Duration) -> anyhow::Result<Turn> {
    let (target, zones) = (stage.site()?.target(), stage.zones().await?);
    let single = load::single(target, bytes, Window::after(WARM_UP, length)).await?;
    zones.settled().await?;
    let alone = load::alone(target, bytes, Window::after(WARM_UP, length)).await?;
    let latency = alone.latencies.summary();
    let bulk = bulk(stage, &zones, bytes, length).await?;
    Ok(Turn { single: single.rate(), bulk, p50_ms: latency.p50_ms, p99_ms: latency.p99_ms })
}

/// Bulk writes a second, counted where all zones have applied them.
async fn bulk(stage: &Stage, zones: &Zones, bytes: usize, length: Duration) -> anyhow::Result<f64> {
    let window = Window::after(WARM_UP, length);
    let load = load::bulk(stage.site()?.target(), bytes, window);
    let (_, applied) = tokio::try_join!(load, zones.applied_in(window))?;
    zones.settled().await?;
    Ok(applied)
}

fn points(at: &[usize], turns: &[Vec<Turn>]) -> Vec<Point> {
    let point = |(at, turns): (&usize, &Vec<Turn>)| {
        let of = |figure: fn(&Turn) -> f64| Spread::of(turns.iter().map(figure));
        Some(Point {
            at: *at,
            single_per_second: of(|turn| turn.single)?,
            bulk_per_second: of(|turn| turn.bulk)?,
            alone_p50_ms: of(|turn| turn.p50_ms)?,
            alone_p99_ms: of(|turn| turn.p99_ms)?,
        })
    };
    at.iter().zip(turns).filter_map(point).collect()
}

/// Grows the chain to `links` and measures it; `None` when the run was stopped.
async fn at_length(stage: &Stage, links: u64, options: &Options) -> anyhow::Result<Option<Length>> {
    let length = options.length;
    let (site, zones) = (stage.site()?, stage.zones().await?);
    let target = site.target();
    loop {
        let newest = zones.settled().await?;
        if options.stop.is_cancelled() {
            return Ok(None);
        }
        if newest >= links {
            break;
        }
        output::complain(&format!("growing the chain: {newest} of {links} links"));
        load::bulk(target, PAYLOAD_BYTES, Window::after(Duration::ZERO, GROW.min(length))).await?;
    }
    let measured = bulk(stage, &zones, PAYLOAD_BYTES, length).await?;
    let measure = Measure::new(target, length);
    let deployment = site.deployment().context("the deployment is our own")?;
    let caught_up = disturbed_zones::catch_up(&measure, deployment, &zones).await?;
    let newest = zones.settled().await?;
    let verified = proof::verify_newest(target, &zones, newest, VERIFIED).await?;
    let client = zones.clients().next().context("there is a zone")?;
    let sizes = "select pg_table_size('pghc.chain'), pg_indexes_size('pghc.chain')";
    let sizes = client.query_one(sizes, &[]).await?;
    let zone = &target.zones[0].name;
    let log = deployment.data().join("zones").join(zone).join("coordinator");
    Ok(Some(Length {
        links: newest,
        bulk_per_second: measured,
        catch_up_per_second: caught_up.per_second,
        verify_per_second: verified.per_second,
        copy_per_second: verified.get("copy_per_second").unwrap_or_default(),
        verifier_mib: verified.get("verifier_mib"),
        table_mib: mib(sizes.try_get::<_, i64>(0)?.unsigned_abs()),
        index_mib: mib(sizes.try_get::<_, i64>(1)?.unsigned_abs()),
        log_mib: mib(bytes_below(&log)),
    }))
}

/// Bytes of all files below a directory; what vanishes meanwhile counts nothing.
fn bytes_below(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const POINT_HEADER: [&str; 4] = ["single writes/s", "bulk writes/s", "one client p50 ms", "p99 ms"];
const LENGTH_HEADER: [&str; 9] = [
    "links",
    "bulk/s",
    "catch-up/s",
    "verify/s",
    "COPY/s",
    "verifier MiB",
    "table MiB",
    "index MiB",
    "log MiB",
];

impl Point {
    fn cells(&self) -> Vec<String> {
        vec![
            self.at.to_string(),
            told(&self.single_per_second, 0),
            told(&self.bulk_per_second, 0),
            told(&self.alone_p50_ms, 2),
            told_or_dash(Some(&self.alone_p99_ms), 2),
        ]
    }
}

impl Length {
    fn cells(&self) -> Vec<String> {
        let rates = [
            self.bulk_per_second,
            self.catch_up_per_second,
            self.verify_per_second,
            self.copy_per_second,
        ];
        let sizes = [self.table_mib, self.index_mib, self.log_mib].map(|mib| format!("{mib:.0}"));
        let verifier = self.verifier_mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}"));
        let rates = rates.map(|rate| format!("{rate:.0}"));
        [self.links.to_string()].into_iter().chain(rates).chain([verifier]).chain(sizes).collect()
    }
}

impl Report {
    fn conditions(&self) -> String {
        let Self { cores, seconds, rounds, .. } = self;
        let build =
            if self.is_release { "" } else { "; a DEBUG build, whose figures mean nothing" };
        format!("{cores} cores shared by all; {seconds} s a turn, median of {rounds} rounds{build}")
    }

    /// Heading of the first column of each table of points, and its points.
    fn tables(&self) -> [(&'static str, &[Point]); 2] {
        [("zones", &self.zones), ("payload bytes", &self.payloads)]
    }

    /// The report as one self-contained HTML page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = Page::new("pghc as it grows");
        page.text(&self.conditions());
        let cells =
            |cells: Vec<String>| cells.into_iter().map(|text| (text, Tone::Plain)).collect();
        for (name, points) in self.tables() {
            if !points.is_empty() {
                page.section(name);
                let header: Vec<_> = [name].into_iter().chain(POINT_HEADER).collect();
                page.table(&header, &points.iter().map(|p| cells(p.cells())).collect::<Vec<_>>());
            }
        }
        if !self.lengths.is_empty() {
            page.section("length of the chain");
            let rows: Vec<_> = self.lengths.iter().map(|length| cells(length.cells())).collect();
            page.table(&LENGTH_HEADER, &rows);
            page.curves(&self.rates_by_length());
        }
        for check in self.verify.iter().filter(|check| !check.passed) {
            page.printed(&check.report);
        }
        page.finish()
    }

    fn rates_by_length(&self) -> Curves {
        #[expect(clippy::cast_precision_loss, reason = "a place in a chart")]
        let line = |name: &str, of: fn(&Length) -> f64| Line {
            name: name.to_owned(),
            points: self.lengths.iter().map(|length| (length.links as f64, of(length))).collect(),
        };
        Curves {
            title: "Rates by length".to_owned(),
            x: "links".to_owned(),
            y: "/s".to_owned(),
            lines: vec![
                line("bulk writes, applied everywhere", |length| length.bulk_per_second),
                line("catch-up", |length| length.catch_up_per_second),
                line("chain-verify a zone", |length| length.verify_per_second),
            ],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "INTERRUPTED: what follows is what was measured until then")?;
        }
        writeln!(f, "{}", self.conditions())?;
        for (name, points) in self.tables() {
            if !points.is_empty() {
                let header: Vec<_> = [name].into_iter().chain(POINT_HEADER).collect();
                let mut rows = table(&header);
                points.iter().for_each(|point| {
                    rows.add_row(row(point.cells()));
                });
                writeln!(f, "\n{}", rows.trim_fmt())?;
            }
        }
        if !self.lengths.is_empty() {
            let mut rows = table(&LENGTH_HEADER);
            self.lengths.iter().for_each(|length| {
                rows.add_row(row(length.cells()));
            });
            writeln!(f, "\n{}", rows.trim_fmt())?;
        }
        match self.verify.iter().find(|check| !check.passed) {
            None => write!(f, "\nchain-verify passed for {} chains", self.verify.len()),
            Some(check) => {
                write!(f, "\nchain-verify DID NOT PASS:\n{}", check.report.trim_end())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Turn, points, rotated};

    #[test]
    fn round_has_each_node_count_once_in_rotated_order() {
        for round in 0..7 {
            let places: Vec<_> = rotated(3, round).collect();
            assert_eq!(places[0], round % 3);
            assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 3);
        }
        assert_eq!(rotated(0, 5).count(), 0);
    }

    #[test]
    fn point_is_median_of_its_turns() {
        let turn = |single| Turn { single, bulk: 1.0, p50_ms: 1.0, p99_ms: 2.0 };
        let found = points(&[1, 3], &[vec![turn(10.0), turn(30.0), turn(20.0)], Vec::new()]);
        assert_eq!(found.len(), 1);
        assert!((found[0].single_per_second.median - 20.0).abs() < 1e-9);
    }
}
