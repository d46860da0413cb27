//! `geo-load bench`: pghc and what it is compared with on the same machine, in one run, so that
//! their ratios mean something where the absolute figures of a small machine do not.
//!
//! Contestants take turns in rounds, in an order that rotates, and each has the machine to itself;
//! ratios are taken inside a round. All rows are alike: 200 bytes of payload, the columns of a link.

mod away;
mod closed;
mod contestant;
mod doubts;
mod far;
mod grounds;
mod idle;
mod load;
mod marks;
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
mod zones;

use std::time::Instant;

use anyhow::{bail, ensure};

use self::closed::Window;
pub use self::contestant::Contestant;
use self::contestant::{Ground, order};
pub use self::grounds::Grounds;
pub use self::marks::{Mark, Side};
use self::measure::{Measure, PAYLOAD_BYTES, WARM_UP};
pub use self::options::Options;
pub use self::probe::Probe;
pub use self::report::{Report, Row};
pub use self::sample::{Curve, Round, Sample, Turn};
pub use self::spread::Spread;
use super::verdict::{self, Verdict};
use crate::output;

/// Runs all rounds, lets `chain-verify` look at what was written, and reports.
///
/// # Errors
/// When a contestant cannot be set up, a node refuses most of what is sent, or a contestant needs
/// an own parade and there is none, or no turn was done before it was stopped; nothing is reported then.
pub async fn run(grounds: &mut Grounds, options: &Options) -> anyhow::Result<Report> {
    let of_others = options.contestants.iter().find(|one| one.needs_own_parade());
    if let Some(one) = of_others.filter(|_| !grounds.has_own_parade()) {
        bail!(
            "{} stops or watches processes or changes distances, which is done only to a parade of \
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
        for contestant in order(&options.contestants, round, options.rounds) {
            output::complain(&format!("round {} of {}: {contestant}", round + 1, options.rounds));
            turns.push(turn(grounds, contestant, options).await?);
            if options.stop.is_cancelled() {
                break;
            }
        }
        rounds.push(Round { turns });
    }
    ensure!(!rounds.is_empty(), "interrupted before anything was measured");
    for contestant in options.contestants.iter().copied().filter(|one| one.runs_once()) {
        if options.stop.is_cancelled() {
            break;
        }
        output::complain(&format!("once: {contestant}"));
        let turn = turn(grounds, contestant, options).await?;
        rounds.first_mut().expect("there is at least one round").turns.push(turn);
    }
    let mut proved: Option<Verdict> = None;
    for ground in [Ground::Parade, Ground::Continents] {
        // What did not pass is what is reported.
        let may_go_on = proved.as_ref().is_none_or(|before| before.passed);
        if may_go_on && options.contestants.iter().any(|one| one.ground() == ground) {
            output::complain("verifying the chain");
            grounds.bring(ground).await?;
            grounds.zones().await?.settled().await?;
            proved = Some(verdict::verify_at_rest(grounds.target()?).await?);
        }
    }
    let version = version(grounds).await?;
    Ok(Report::new(options, rounds, version, proved)?)
}

/// The version of PostgreSQL, asked of whatever runs.
async fn version(grounds: &Grounds) -> anyhow::Result<String> {
    let tasks = grounds.tasks();
    let client = match grounds.servers() {
        Ok(servers) => servers.connect_first(1, tasks).await?.remove(0),
        Err(_) => servers::connect_to(&grounds.target()?.zones[0].dsn, tasks).await?,
    };
    postgres::version(&client).await
}

/// One turn: brings up what it needs, probes the machine, measures.
async fn turn(
    grounds: &mut Grounds,
    contestant: Contestant,
    options: &Options,
) -> anyhow::Result<Turn> {
    grounds.bring(contestant.ground()).await?;
    let machine = Probe::take(grounds.directory()).await?;
    let (begun, cpu) = (Instant::now(), probe::own_cpu());
    let sample = if contestant.ground().is_of_pghc() {
        of_pghc(grounds, contestant, options).await
    } else {
        of_postgres(grounds, contestant, options).await
    };
    let sample = sample.map_err(|error| error.context(format!("cannot measure {contestant}")))?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = probe::own_cpu().zip(cpu).map(|(after, before)| after.saturating_sub(before));
    let client_cores = used.map(|used| used.as_secs_f64() / seconds);
    Ok(Turn { contestant, machine, client_cores, seconds, sample })
}

async fn of_postgres(
    grounds: &Grounds,
    contestant: Contestant,
    options: &Options,
) -> anyhow::Result<Sample> {
    let (servers, tasks) = (grounds.servers()?, grounds.tasks());
    let commit = if options.raw_is_synchronous { "on" } else { "off" };
    let window = || Window::after(WARM_UP, options.length);
    let tally = match contestant {
        Contestant::Raw => postgres::raw_limit(servers, 3, commit, window, tasks).await?,
        Contestant::RawOne => postgres::raw_limit(servers, 1, commit, window, tasks).await?,
        Contestant::Plain => postgres::single_inserts(servers, None, window, tasks).await?,
        Contestant::Replicas => {
            postgres::single_inserts(servers, Some(load::CONNECTIONS), window, tasks).await?
        }
        Contestant::ReplicasAlone => postgres::alone(servers, window, tasks).await?,
        other => bail!("{other} is not measured on bare servers"),
    };
    Ok(Sample::of(tally))
}

async fn of_pghc(
    grounds: &Grounds,
    contestant: Contestant,
    options: &Options,
) -> anyhow::Result<Sample> {
    let target = grounds.target()?;
    let measure = Measure::new(target, options.length);
    let zones = grounds.zones().await?;
    let window = measure.window();
    let load = async {
        match contestant {
            Contestant::Original => load::original(target, window).await,
            Contestant::Bulk => load::bulk(target, PAYLOAD_BYTES, window).await,
            Contestant::Alone => load::alone(target, PAYLOAD_BYTES, window).await,
            _ => load::single(target, PAYLOAD_BYTES, window).await,
        }
    };
    let sample = match contestant {
        Contestant::CatchUp => away::catch_up(&measure, grounds.parade()?, &zones).await?,
        Contestant::SlowZone => away::slow_zone(&measure, grounds.parade()?, &zones).await?,
        Contestant::Verify => proof::verify(&measure, &zones).await?,
        Contestant::Overload => overload::overload(&measure).await?,
        Contestant::Idle => idle::idle(&measure, grounds.parade()?).await?,
        Contestant::Far => far::far(&measure, &grounds.net()?, &zones).await?,
        Contestant::Memory => memory::memory(&measure, grounds.parade()?, options).await?,
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
