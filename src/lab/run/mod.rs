//! `geo-load run`: runs a scenario against a deployment and evaluates it.
//!
//! Invariant: before there is an outcome, every fault is undone and every acknowledged write has been
//! looked up in the chain.

pub mod analysis;
mod cluster;
pub mod compare;
pub mod console;
pub mod drive;
pub mod environment;
pub mod faults;
pub mod files;
mod leader_terms;
pub mod outcome;
pub mod plan;
pub mod scenario;
pub mod scenario_values;
pub mod sweep;
pub mod watch;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use pghc_runtime::output;
use pghc_wan::{Matrix, SelfCheck, Stats};
use tokio_util::sync::CancellationToken;

use self::analysis::Raw;
use self::drive::RunContext;
use self::faults::{Event, Tools};
use self::outcome::{Outcome, VERSION};
use self::scenario::{Placement, Scenario};
use self::watch::{LeaderTerm, Steps};
use super::chain_check::{self, CheckResult};
use super::load::{Log, Progress};
use super::site::{OwnSite, Site, SiteOptions};
use super::target::Target;
use super::transport::Http;
use super::write_audit::{self, WriteAudit};

/// Longest wait, after the run, until every zone has applied everything.
const CALM_MAX: Duration = Duration::from_secs(120);
const CALM_EVERY: Duration = Duration::from_millis(100);

/// A run, with what is too much for its [`Outcome`].
#[derive(Debug)]
pub struct Finished {
    /// The figures.
    pub outcome: Outcome,
    /// Every request.
    pub logs: Vec<Log>,
}

/// The deployment of a scenario: the one that is named, or a new one.
///
/// # Errors
/// When there is none, or it lacks zones of the scenario.
pub async fn open(scenario: &Scenario, options: &SiteOptions) -> anyhow::Result<Site> {
    let (zones, matrix) = scenario.distances()?;
    let site = match Site::find(options).await? {
        Some(site) => site,
        None => {
            let api_nodes = scenario.cluster.api_nodes;
            let own = OwnSite {
                zones: zones.clone(),
                voters: scenario.cluster.voters(),
                matrix,
                api_nodes,
                acks: scenario.cluster.acks,
                seed: scenario.seed,
            };
            Site::open_own(options, own).await?
        }
    };
    let ready = prepare(scenario, &site).await;
    if let Err(error) = ready {
        site.close().await;
        return Err(error);
    }
    Ok(site)
}

/// Conditions of the network, and the leader.
async fn prepare(scenario: &Scenario, site: &Site) -> anyhow::Result<()> {
    let known = |zone: &str| site.target().zones.iter().any(|other| other.name == zone);
    for clients in &scenario.clients {
        let zone = &clients.zone;
        ensure!(zone == "*" || known(zone), "the deployment has no zone {zone}");
    }
    if site.deployment().is_some()
        && let Some(net) = site.net()
    {
        net.set("*", "*", &scenario.conditions()).await?;
    }
    if scenario.cluster.placement == Placement::Auto {
        faults::place_by_itself(site).await?;
    }
    match &scenario.cluster.leader {
        Some(zone) if site.record().is_some() => faults::lead(site, zone).await,
        Some(zone) if site.target().status().await?.leader_zone.as_ref() != Some(zone) => {
            bail!("{zone} does not lead, and a deployment known by --target only is not changed")
        }
        _ => Ok(()),
    }
}

/// Runs the scenario.
///
/// # Errors
/// When the deployment cannot be driven or verified at all; a run that merely fails is an outcome.
///
/// Once `stop` is cancelled no more is sent, and the outcome is of what was.
pub async fn run(
    scenario: &Scenario,
    site: &Site,
    stop: &CancellationToken,
) -> anyhow::Result<Finished> {
    let target = site.target();
    let started = format!("{:.0}", jiff::Timestamp::now());
    let newest = write_audit::frontier(&target.zones[0].nodes[0]).await?;
    let name = uuid::Uuid::now_v7().simple().to_string();
    let seen = watched(scenario, site, newest, &name, stop).await?;
    calm(target).await?;
    let node = &target.zones[0].nodes[0];
    let audit = write_audit::read_chain(node, newest, &name, &seen.logs).await?;
    let verify = chain_check::verify(target).await?;
    let zones: Vec<String> = target.zones.iter().map(|zone| zone.name.clone()).collect();
    let matrix = matrix_of(site, scenario, &zones).await;
    let (emulator, emulator_check) = emulator(site).await;
    let known = Known { started, is_virtual: false, seen, audit, verify, emulator, emulator_check };
    Ok(figures(scenario, &zones, matrix.as_ref(), known))
}

/// Data recorded while the load was there.
pub struct Seen {
    /// Each group of clients, in the order of the scenario.
    pub logs: Vec<Log>,
    /// Each node's frontier over time.
    pub steps: Vec<Steps>,
    /// Every change of the leader.
    pub leader_terms: Vec<LeaderTerm>,
    /// Faults, and what they did.
    pub events: Vec<Event>,
    /// Processor time of the machine, 0 to 1.
    pub cpu: Option<f64>,
    /// When it was stopped early, from the start of the warm-up.
    pub cut: Option<Duration>,
}

/// Data of a finished run.
pub struct Known {
    /// When it began, for people.
    pub started: String,
    /// Whether time was virtual.
    pub is_virtual: bool,
    /// The record of it.
    pub seen: Seen,
    /// Acknowledged writes against the chain.
    pub audit: WriteAudit,
    /// Result of chain-verify over all zones.
    pub verify: CheckResult,
    /// Counts of the emulator of distances.
    pub emulator: Option<Stats>,
    /// Lateness of the emulator before the run.
    pub emulator_check: Option<SelfCheck>,
}

/// Computes the figures of a run and evaluates them: of one that was stopped early, as if it had been
/// planned to end then.
pub fn figures(
    scenario: &Scenario,
    zones: &[String],
    matrix: Option<&Matrix>,
    known: Known,
) -> Finished {
    let Seen { logs, steps, leader_terms, mut events, cpu, cut } = known.seen;
    let scenario = &cut.map_or_else(|| scenario.clone(), |at| scenario.cut(at));
    let (logs_of, steps, terms) = (&logs[..], &steps[..], &leader_terms[..]);
    let raw = Raw { scenario, zones, matrix, logs: logs_of, steps, leader_terms: terms };
    raw.measure_faults(&mut events);
    let mut leader_terms = leader_terms.clone();
    raw.measure_leader_terms(matrix.map(|matrix| raw.model(matrix)).as_ref(), &mut leader_terms);
    let (by_zone, all) = raw.zones();
    let (visibility, visible_everywhere) = raw.visibility();
    let mut outcome = Outcome {
        version: VERSION,
        name: scenario.name.clone(),
        about: scenario.about.clone(),
        label: None,
        seed: scenario.seed,
        started: known.started,
        is_virtual: known.is_virtual,
        interrupted: cut.is_some(),
        seconds: scenario.duration.0.as_secs_f64(),
        warmup_s: scenario.warmup.0.as_secs_f64(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        optimised: !cfg!(debug_assertions),
        zones: by_zone,
        all,
        reads: raw.reads(),
        round_trips_ms: matrix.map(round_trips),
        commit: scenario.cluster.formula(),
        voters: if scenario.cluster.voters.is_empty() {
            zones.to_vec()
        } else {
            scenario.cluster.voters.clone()
        },
        leader: raw.leader(),
        leader_terms,
        timeline: raw.timeline(),
        events,
        visibility,
        visible_everywhere,
        audit: known.audit,
        verify: known.verify,
        slip: raw.slip(),
        emulator: known.emulator,
        emulator_check: known.emulator_check,
        cpu,
        warm_up_failures: raw.warm_up_failures(),
        invalid: Vec::new(),
        slo: Vec::new(),
        passed: false,
    };
    outcome.invalid = raw.invalid(&outcome);
    outcome.slo = analysis::evaluate(scenario, &outcome);
    if outcome.interrupted {
        let text = format!("INTERRUPTED after {:.1} s of the measured time", outcome.seconds);
        outcome.invalid.insert(0, text);
    }
    outcome.passed = outcome.all.ok > 0
        && !outcome.interrupted
        && outcome.audit.agrees()
        && outcome.verify.passed
        && outcome.events.iter().all(|event| event.error.is_none())
        && outcome.slo.iter().all(|judged| judged.ok);
    Finished { outcome, logs }
}

/// Sends, watches, breaks and mends.
async fn watched(
    scenario: &Scenario,
    site: &Site,
    newest: u64,
    name: &str,
    stop: &CancellationToken,
) -> anyhow::Result<Seen> {
    let target = site.target();
    let (done, progress) = (CancellationToken::new(), Progress::default());
    let leader = parking_lot::Mutex::new(target.status().await?.leader_zone);
    let tools = Tools::new(site, &scenario.faults, &leader)?;
    let start = Instant::now() + drive::LEAD;
    let zero = start + scenario.warmup.0;
    let zones: Vec<String> = target.zones.iter().map(|zone| zone.name.clone()).collect();
    let (zones, progress) = (&zones[..], &progress);
    let context = RunContext { zones, scenario, run: name, newest, start, progress, stop };
    let before = processors();
    let sending = async {
        let ended = drive::drive(context, &Http::new(target)).await;
        done.cancel();
        ended
    };
    let breaking = futures::future::join_all(
        scenario.faults.iter().map(|fault| faults::run(&tools, fault, zero, &done)),
    );
    let followed = if scenario.cluster.visibility { &target.zones[..] } else { &[] };
    let following = futures::future::join_all(
        followed.iter().map(|zone| watch::frontier(&zone.nodes[0], start, newest, &done)),
    );
    let leading = async || {
        let known = watch::leader(target).await;
        if let Some((zone, _)) = &known {
            leader.lock().clone_from(zone);
        }
        known
    };
    let ((logs, cut), events, steps, leader_terms, ()) = tokio::join!(
        sending,
        breaking,
        following,
        watch::leaders(zero, &done, leading),
        show(&done, progress_line(scenario, start, progress)),
    );
    let cpu = before.zip(processors()).and_then(|(before, after)| share(before, after));
    Ok(Seen { logs, steps, leader_terms, events, cpu, cut })
}

/// The line that shows the progress of a run in real time.
fn progress_line(
    scenario: &Scenario,
    start: Instant,
    progress: &Progress,
) -> impl FnMut() -> String {
    let length = scenario.length().as_secs();
    let mut before = 0;
    move || {
        let (ok, failed) = progress.counts();
        let since = start.elapsed().as_secs().min(length);
        let warm = if since < scenario.warmup.0.as_secs() { ", warming up" } else { "" };
        let rate = ok - std::mem::replace(&mut before, ok);
        format!("{since:>4} of {length} s{warm}: {ok} ok ({rate}/s), {failed} failed")
    }
}

/// Shows a line for people each second until `done`, on a terminal only.
pub async fn show(done: &CancellationToken, mut line: impl FnMut() -> String) {
    while std::io::stderr().is_terminal() {
        output::show(&format!("\r{:<70}", line()));
        tokio::select! {
            biased;
            () = done.cancelled() => return output::show(&format!("\r{:<70}\r", "")),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Waits until every zone has applied what is committed.
async fn calm(target: &Target) -> anyhow::Result<()> {
    let deadline = Instant::now() + CALM_MAX;
    loop {
        let Err(error) = settled(target).await else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(error.context(format!("the zones are not alike after {CALM_MAX:?}")));
        }
        tokio::time::sleep(CALM_EVERY).await;
    }
}

async fn settled(target: &Target) -> anyhow::Result<()> {
    let mut frontiers = Vec::new();
    for zone in &target.zones {
        for node in &zone.nodes {
            let body = node.fetch("/v1/chain/head?linearizable=true").await?;
            let head: pghc_api::wire::HeadBody =
                serde_json::from_slice(&body).context("the head is not one of pghc")?;
            frontiers.push(head.frontier);
        }
    }
    ensure!(frontiers.windows(2).all(|two| two[0] == two[1]), "frontiers {frontiers:?}");
    Ok(())
}

/// The distances that the run really had: the scenario's, if the deployment was started for it.
async fn matrix_of(site: &Site, scenario: &Scenario, zones: &[String]) -> Option<Matrix> {
    let matrix = match site.deployment() {
        Some(deployment) => deployment.wan().map(|wan| wan.matrix().clone()),
        None => {
            // Distances of the running deployment's emulator, else those of the scenario.
            let links = match site.net() {
                Some(net) => net.show().await.ok().map(|net| net.links),
                None => None,
            };
            match links {
                Some(links) => Matrix::of_lines(&links),
                None => scenario.distances().ok().and_then(|(_, matrix)| matrix),
            }
        }
    };
    let names = matrix
        .as_ref()
        .map(|matrix| matrix.zones().iter().map(ToString::to_string).collect::<Vec<_>>());
    matrix.filter(|_| names.as_deref() == Some(zones))
}

fn round_trips(matrix: &Matrix) -> Vec<Vec<f64>> {
    let zones = matrix.zones();
    let ms = |a, b| (matrix.one_way(a, b) + matrix.one_way(b, a)).as_secs_f64() * 1e3;
    zones.iter().map(|a| zones.iter().map(|b| ms(a, b)).collect()).collect()
}

async fn emulator(site: &Site) -> (Option<Stats>, Option<SelfCheck>) {
    if let Some(wan) = site.emulator() {
        return (Some(wan.stats()), wan.checked());
    }
    match site.net() {
        Some(net) => net.show().await.map_or((None, None), |net| (Some(net.stats), net.check)),
        None => (None, None),
    }
}

/// Busy and total ticks of the machine's processors since boot, where the system reports them.
fn processors() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|tick| tick.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is part of user.
    let all: u64 = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Some((all - idle, all))
}

fn share(before: (u64, u64), after: (u64, u64)) -> Option<f64> {
    let all = after.1.checked_sub(before.1).filter(|all| *all > 0)?;
    Some(after.0.checked_sub(before.0)? as f64 / all as f64)
}
