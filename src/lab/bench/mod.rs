//! `geo-load bench`: measures pghc and its baselines on the same machine in one run, because ratios
//! are meaningful where absolute figures of a small machine are not.
//!
//! Benchmark cases take turns in rounds, in an order that rotates, and each has the machine to itself;
//! ratios are taken inside a round. All rows are alike: 200 bytes of payload, the columns of a link.

mod bulk_over_wan;
mod case;
mod closed;
mod disturbed_zones;
mod environments;
mod idle;
mod load;
mod measure;
mod memory;
mod open;
mod options;
mod overload;
mod page;
mod postgres;
mod probe;
mod proof;
mod report;
mod sample;
pub mod scale;
mod servers;
mod spread;
mod targets;
mod warnings;
mod zones;

use std::time::Instant;

use anyhow::{bail, ensure};

pub use self::case::BenchmarkCase;
use self::case::{BenchEnvironment, order};
use self::closed::Window;
pub use self::environments::BenchEnvironments;
use self::measure::{Measure, PAYLOAD_BYTES, WARM_UP};
pub use self::options::Options;
pub use self::probe::Probe;
pub use self::report::{Report, Row};
pub use self::sample::{Curve, Round, Sample, Turn};
pub use self::spread::Spread;
pub use self::targets::{PerformanceTarget, Side};
use pghc_runtime::output;

use super::chain_check::{self, CheckResult};

/// Runs all rounds, verifies the written chain with `chain-verify`, and reports.
///
/// # Errors
/// When a benchmark case cannot be set up, or needs a deployment of its own and has none, when a node
/// refuses most writes, or when the run was stopped before its first turn. No report is written
/// then.
pub async fn run(
    environments: &mut BenchEnvironments,
    options: &Options,
) -> anyhow::Result<Report> {
    let of_others = options.cases.iter().find(|one| one.needs_own_deployment());
    if let Some(one) = of_others.filter(|_| !environments.has_own_deployment()) {
        bail!(
            "{} stops or watches processes or changes distances, which is done only to a deployment of \
             our own; leave it out by --only, or leave out --against",
            one.key()
        );
    }
    let mut rounds = Vec::with_capacity(options.rounds);
    for round in 0..options.rounds {
        let mut turns = Vec::new();
        if options.stop.is_cancelled() {
            break;
        }
        for case in order(&options.cases, round, options.rounds) {
            output::complain(&format!("round {} of {}: {case}", round + 1, options.rounds));
            turns.push(turn(environments, case, options).await?);
            if options.stop.is_cancelled() {
                break;
            }
        }
        rounds.push(Round { turns });
    }
    ensure!(!rounds.is_empty(), "interrupted before anything was measured");
    for case in options.cases.iter().copied().filter(|one| one.runs_once()) {
        if options.stop.is_cancelled() {
            break;
        }
        output::complain(&format!("once: {case}"));
        let turn = turn(environments, case, options).await?;
        rounds.first_mut().expect("there is at least one round").turns.push(turn);
    }
    let mut proved: Option<CheckResult> = None;
    for environment in [BenchEnvironment::Deployment, BenchEnvironment::Continents] {
        // A failed check is the reported one.
        let may_go_on = proved.as_ref().is_none_or(|before| before.passed);
        if may_go_on && options.cases.iter().any(|one| one.environment() == environment) {
            output::complain("verifying the chain");
            environments.bring(environment).await?;
            environments.zones().await?.settled().await?;
            proved = Some(chain_check::verify_at_rest(environments.target()?).await?);
        }
    }
    let version = version(environments).await?;
    Ok(Report::new(options, rounds, version, proved)?)
}

/// The version of PostgreSQL, asked of whatever runs.
async fn version(environments: &BenchEnvironments) -> anyhow::Result<String> {
    let tasks = environments.tasks();
    let client = match environments.servers() {
        Ok(servers) => servers.connect_first(1, tasks).await?.remove(0),
        Err(_) => servers::connect_to(&environments.target()?.zones[0].dsn, tasks).await?,
    };
    postgres::version(&client).await
}

/// Runs one turn: starts the environment, probes the machine, measures.
async fn turn(
    environments: &mut BenchEnvironments,
    case: BenchmarkCase,
    options: &Options,
) -> anyhow::Result<Turn> {
    environments.bring(case.environment()).await?;
    let machine = Probe::take(environments.directory()).await?;
    let (begun, cpu) = (Instant::now(), probe::own_cpu());
    let sample = if case.environment().is_of_pghc() {
        of_pghc(environments, case, options).await
    } else {
        of_postgres(environments, case, options).await
    };
    let sample = sample.map_err(|error| error.context(format!("cannot measure {case}")))?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = probe::own_cpu().zip(cpu).map(|(after, before)| after.saturating_sub(before));
    let client_cores = used.map(|used| used.as_secs_f64() / seconds);
    Ok(Turn { case, machine, client_cores, seconds, sample })
}

async fn of_postgres(
    environments: &BenchEnvironments,
    case: BenchmarkCase,
    options: &Options,
) -> anyhow::Result<Sample> {
    let (servers, tasks) = (environments.servers()?, environments.tasks());
    let commit = if options.raw_is_synchronous { "on" } else { "off" };
    let window = || Window::after(WARM_UP, options.length);
    let tally = match case {
        BenchmarkCase::Raw => postgres::raw_limit(servers, 3, commit, window, tasks).await?,
        BenchmarkCase::RawOne => postgres::raw_limit(servers, 1, commit, window, tasks).await?,
        BenchmarkCase::Plain => postgres::single_inserts(servers, None, window, tasks).await?,
        BenchmarkCase::Replicas => {
            postgres::single_inserts(servers, Some(load::CONNECTIONS), window, tasks).await?
        }
        BenchmarkCase::ReplicasAlone => postgres::alone(servers, window, tasks).await?,
        other => bail!("{other} is not measured on bare servers"),
    };
    Ok(Sample::of(tally))
}

async fn of_pghc(
    environments: &BenchEnvironments,
    case: BenchmarkCase,
    options: &Options,
) -> anyhow::Result<Sample> {
    let target = environments.target()?;
    let measure = Measure::new(target, options.length);
    let zones = environments.zones().await?;
    let window = measure.window();
    let load = async {
        match case {
            BenchmarkCase::Original => load::original(target, window).await,
            BenchmarkCase::Bulk => load::bulk(target, PAYLOAD_BYTES, window).await,
            BenchmarkCase::Alone => load::alone(target, PAYLOAD_BYTES, window).await,
            _ => load::single(target, PAYLOAD_BYTES, window).await,
        }
    };
    let sample = match case {
        BenchmarkCase::CatchUp => {
            disturbed_zones::catch_up(&measure, environments.deployment()?, &zones).await?
        }
        BenchmarkCase::SlowZone => {
            disturbed_zones::slow_zone(&measure, environments.deployment()?, &zones).await?
        }
        BenchmarkCase::Verify => proof::verify(&measure, &zones).await?,
        BenchmarkCase::Overload => overload::overload(&measure).await?,
        BenchmarkCase::Idle => idle::idle(&measure, environments.deployment()?).await?,
        BenchmarkCase::Far => {
            bulk_over_wan::measure(&measure, &environments.net()?, &zones).await?
        }
        BenchmarkCase::Memory => {
            memory::memory(&measure, environments.deployment()?, options).await?
        }
        _ => {
            let (tally, applied) = tokio::try_join!(load, zones.applied_in(window))?;
            let mut sample = Sample::of(tally);
            sample.figure("applied_per_second", applied);
            sample
        }
    };
    // The next turn shall not begin with the backlog of this one.
    zones.settled().await?;
    Ok(sample)
}
