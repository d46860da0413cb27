//! `geo-load run --virtual`: a scenario on a deployment in one thread and in virtual time.
//!
//! The same plan, books, figures and files as of a run on real processes; the same seed gives the
//! same bytes. Clients call the API nodes' service; HTTP is left out.
//!
//! Invariant: nothing that is reported depends on real time.

mod check;
mod clients;
mod faults;

use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use futures::future::join_all;
use pghc_api::id::ZoneName;
use pghc_dev::deployment::Acks;
use pghc_lab::histogram::Latencies;
use pghc_lab::load::Progress;
use pghc_lab::run::drive::{LEAD, RunContext, drive};
use pghc_lab::run::scenario::{Placement, Scenario};
use pghc_lab::run::watch::{Steps, leaders};
use pghc_lab::run::{Finished, Known, Seen, faults as run_faults, figures, show};
use pghc_lab::write_audit;
use pghc_sim::{Deployment, Plan, clock};
use pghc_wan::Matrix;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::clients::Calls;
use self::faults::Tools;

/// Longest wait, after the run, until every zone has applied everything.
const CALM_MAX: Duration = Duration::from_secs(120);
const CALM_EVERY: Duration = Duration::from_secs(1);

/// Runs the scenario in virtual time.
///
/// # Errors
/// When it asks for what is not there in virtual time, or the deployment does not come to life.
///
/// Once `stop` is cancelled no more is sent, and the outcome is of what was.
pub async fn run(scenario: &Scenario, stop: &CancellationToken) -> anyhow::Result<Finished> {
    let (zones, matrix) = scenario.distances()?;
    let matrix = matrix.unwrap_or_else(|| Matrix::even(zones.clone(), Duration::ZERO));
    let (scenario, stop) = (scenario.clone(), stop.clone());
    let (tell, told) = oneshot::channel();
    // An interrupted run does not wait for this thread; it ends with the program.
    let thread = std::thread::Builder::new().name("virtual run".to_owned());
    thread.spawn(move || {
        let work = move || watched(scenario, zones, matrix, stop);
        let ended = clock::run(work).context("no thread for virtual time");
        let _ = tell.send(ended.and_then(|ended| ended));
    })?;
    told.await.map_err(|_| anyhow!("the run in virtual time has panicked"))?
}

async fn watched(
    scenario: Scenario,
    zones: Vec<ZoneName>,
    matrix: Matrix,
    stop: CancellationToken,
) -> anyhow::Result<Finished> {
    let deployment = start(&scenario, &zones, &matrix).await?;
    deployment.link_model().set("*", "*", &scenario.conditions()).map_err(anyhow::Error::msg)?;
    let name = format!("virtual-{:016x}", scenario.seed);
    let (progress, done) = (Progress::default(), CancellationToken::new());
    let start = Instant::now() + LEAD;
    let zero = (start + scenario.warmup.0).into_std();
    let tools = Tools { deployment: deployment.clone(), zones: zones.clone() };
    let faults = scenario.faults.iter();
    let breaking = join_all(faults.map(|fault| run_faults::run(&tools, fault, zero, &done)));
    let leading = async || {
        let known = deployment.leader().await;
        known.map(|(zone, term)| (Some(zones[zone].to_string()), term))
    };
    let names: Vec<String> = zones.iter().map(ToString::to_string).collect();
    let context = RunContext {
        zones: &names,
        scenario: &scenario,
        run: &name,
        newest: 0,
        start: start.into_std(),
        progress: &progress,
        stop: &stop,
    };
    let calls = Calls { deployment: deployment.clone(), nodes: scenario.cluster.api_nodes };
    let driving = async {
        let ended = drive(context, &calls).await;
        done.cancel();
        ended
    };
    let line = || {
        let (ok, failed) = progress.counts();
        let length = scenario.length().as_secs();
        let since = start.elapsed().as_secs().min(length);
        format!("{since:>4} of {length} virtual s: {ok} ok, {failed} failed")
    };
    let ((mut logs, cut), events, leader_terms, ()) = tokio::join!(
        biased;
        driving,
        breaking,
        leaders(zero, &done, leading),
        show(&done, line),
    );
    // A request that waits for a connection does so by its scenario, not by a late generator.
    logs.iter_mut().for_each(|log| log.slip = Latencies::default());
    calm(&deployment, zones.len()).await?;
    let ended = deployment.ended();
    ensure!(ended.is_empty(), "{}", ended.join("; "));
    let links = deployment.database(0).links();
    let chain = links.iter().map(|link| (link.id.get(), link.payload.as_deref().unwrap_or("")));
    let audit = write_audit::compare(&name, &logs, chain);
    let verify = check::verify(&deployment, &names, &links);
    let followed = if scenario.cluster.visibility { zones.len() } else { 0 };
    let steps = (0..followed).map(|zone| Steps(steps(&deployment, zone, start))).collect();
    let known = Known {
        started: "in virtual time".to_owned(),
        is_virtual: true,
        seen: Seen { logs, steps, leader_terms, events, cpu: None, cut },
        audit,
        verify,
        emulator: None,
        emulator_check: None,
    };
    Ok(figures(&scenario, &names, Some(&matrix), known))
}

/// Starts the deployment of a scenario and waits for its leader.
async fn start(
    scenario: &Scenario,
    zones: &[ZoneName],
    matrix: &Matrix,
) -> anyhow::Result<Deployment> {
    let cluster = &scenario.cluster;
    let place = |name: &str| zones.iter().position(|zone| zone.as_str() == name);
    let voters = match &cluster.voters {
        all if all.is_empty() => (0..zones.len()).collect(),
        some => some.iter().filter_map(|name| place(name)).collect(),
    };
    let deployment = Deployment::start(Plan {
        seed: scenario.seed,
        matrix: matrix.clone(),
        voters,
        all_to_all: cluster.acks == Acks::AllToAll,
        auto: cluster.placement == Placement::Auto,
        api_nodes: cluster.api_nodes,
    });
    let leader = cluster.leader.as_deref().and_then(place);
    deployment.settle(leader).await.map_err(anyhow::Error::msg)?;
    Ok(deployment)
}

/// The frontier of a zone over time, from the start of the warm-up.
fn steps(deployment: &Deployment, zone: usize, start: Instant) -> Vec<(Duration, u64)> {
    let steps = deployment.database(zone).steps().into_iter();
    steps.map(|(at, frontier)| (at.saturating_duration_since(start), frontier)).collect()
}

/// Waits until every zone has applied the same.
async fn calm(deployment: &Deployment, zones: usize) -> anyhow::Result<()> {
    let until = Instant::now() + CALM_MAX;
    // A write that its client gave up may still be ordered.
    let mut before = Vec::new();
    loop {
        let frontiers: Vec<u64> =
            (0..zones).map(|zone| deployment.database(zone).frontier()).collect();
        let alike = frontiers.windows(2).all(|two| two[0] == two[1]);
        if alike && frontiers == before {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "the zones are not alike after {CALM_MAX:?}: {frontiers:?}; {}",
            deployment.ended().join("; ")
        );
        before = frontiers;
        sleep(CALM_EVERY).await;
    }
}
