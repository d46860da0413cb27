//! How long clients wait when something happens to a cluster that is otherwise left in peace.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use crate::cluster::{Ground, View};
use crate::faults::{Scene, power, until};
use crate::load::{Ack, Rates};
use crate::report::{ELECTION_TIMEOUT, quantile};
use crate::run::{CONVERGE_MAX, Run, perform};

/// Peace before each measurement.
const CALM: Duration = Duration::from_millis(2_500);
/// How long a member stays away: what its return does to the others is not part of the measure.
const AWAY: Duration = Duration::from_millis(2_500);
/// Longest time until a write is acknowledged after an outage.
const ACK_MAX: Duration = Duration::from_secs(30);

/// The measurement to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// The leader is killed: last acknowledgement before to first after.
    LeaderKill,
    /// The leader stops by SIGTERM, as in a rolling restart: the same figures, and errors seen by
    /// clients.
    PlannedMove,
    /// Everything loses its power: from the start of the processes to the first acknowledgement.
    Blackout,
    /// A zone is frozen for minutes: effects on the other zones' clients, and its catch-up.
    FrozenZone,
}

/// Measures and prints. Answers whether nothing was wrong.
///
/// # Errors
/// When the cluster cannot be started, or does not come back.
pub async fn run(
    (ground, rates): (Ground, Rates),
    what: Measure,
    count: u32,
    minutes: f64,
) -> anyhow::Result<bool> {
    let sandbox = ground.sandbox;
    let mut run = Run::start(ground, rates, 1).await?;
    run.load.resume();
    tokio::time::sleep(CALM).await;
    match what {
        Measure::LeaderKill => stalls(&run, "leader-kill", count).await?,
        Measure::PlannedMove => stalls(&run, "leader-stop", count).await?,
        Measure::Blackout => {
            ensure!(sandbox, "a power cut needs a sandbox, and that root");
            blackouts(&run, count).await?;
        }
        Measure::FrozenZone => {
            ensure!(sandbox, "freezing a zone needs a sandbox, and that root");
            frozen(&run, Duration::from_secs_f64(minutes * 60.0)).await?;
        }
    }
    let mut report = crate::report::EpochReport::new(1, Vec::new());
    run.settle(&mut report).await;
    run.end().await;
    for failure in &report.failures {
        println!("FAILURE: {failure}");
    }
    let passed = report.failures.is_empty();
    println!("checked: {}", if passed { "nothing wrong" } else { "FAILED" });
    Ok(passed)
}

/// Waits until every zone serves and a little longer.
async fn peace(run: &Run) -> anyhow::Result<()> {
    let whole = until("every zone serves", CONVERGE_MAX, async || {
        let troubles = View::ready(&run.cluster).await;
        troubles.iter().all(|trouble| trouble.starts_with("head")).then_some(())
    });
    whole.await?;
    tokio::time::sleep(CALM).await;
    Ok(())
}

fn show(what: &str, mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    let shares = [0.0, 0.5, 0.9, 0.99, 1.0];
    let millis =
        shares.map(|share| Duration::from_nanos(quantile(&nanos, share)).as_secs_f64() * 1e3);
    let timeouts = millis.map(|millis| millis / (ELECTION_TIMEOUT.as_secs_f64() * 1e3));
    println!(
        "{what}: n {}, least {:.0} ms, p50 {:.0} ms ({:.2} ET), p90 {:.0} ms, p99 {:.0} ms ({:.2} ET), \
         most {:.0} ms",
        nanos.len(),
        millis[0],
        millis[1],
        timeouts[1],
        millis[2],
        millis[3],
        timeouts[3],
        millis[4],
    );
}

/// Longest time without an acknowledgement around each fault of a class.
async fn stalls(run: &Run, name: &str, count: u32) -> anyhow::Result<()> {
    let class = run.class(name).context("the class is in the catalogue")?;
    let (mut stalls, mut unclear, mut usual) = (Vec::new(), 0, Vec::new());
    for index in 0..count {
        peace(run).await?;
        let zone = run.view.look().leader.context("a leader")?;
        let book = &run.load.book;
        let from = book.now();
        usual.push(book.stall(from - 2_000_000_000, from));
        let before = book.tally().unknown;
        let happening = perform(class, run.scene(zone, AWAY, u64::from(index))).await;
        ensure!(happening.happened, "{}", happening.evidence);
        // The last acknowledgement before may be a little older than the signal.
        stalls.push(book.stall(from.saturating_sub(20_000_000), happening.ended));
        unclear += book.tally().unknown - before;
    }
    show(&format!("{name}, longest time without an acknowledgement"), stalls);
    show("the same in two seconds of peace", usual);
    println!("attempts that clients had to send again: {unclear}");
    Ok(())
}

async fn blackouts(run: &Run, count: u32) -> anyhow::Result<()> {
    let (mut firsts, mut all) = (Vec::new(), Vec::new());
    for index in 0..count {
        peace(run).await?;
        let book = &run.load.book;
        run.cluster.units().for_each(crate::cluster::Unit::excuse);
        power::off(&run.cluster).await?;
        power::on(&run.cluster).await?;
        let from = book.now();
        power::start(&run.cluster, u64::from(index)).await?;
        let first = until("the first acknowledgement", ACK_MAX, async || {
            book.acks_between(from, book.now()).iter().map(|ack| ack.at).min()
        });
        firsts.push(first.await? - from);
        let zones = until("every zone acknowledges", ACK_MAX, async || {
            let acks = book.acks_between(from, book.now());
            let first =
                |zone: u16| acks.iter().filter(|ack| ack.zone == zone).map(|ack| ack.at).min();
            [first(0)?, first(1)?, first(2)?].into_iter().max()
        });
        all.push(zones.await? - from);
        run.cluster.units().for_each(crate::cluster::Unit::no_excuse);
    }
    show("blackout, start of the processes to the first acknowledgement", firsts);
    show("the same until every zone has acknowledged", all);
    Ok(())
}

async fn frozen(run: &Run, length: Duration) -> anyhow::Result<()> {
    peace(run).await?;
    let leader = run.view.look().leader.context("a leader")?;
    let zone = (leader + 1) % crate::cluster::ZONES;
    let class = run.class("zone-freeze").context("the class is in the catalogue")?;
    run.load.avoid(&[zone]);
    let book = &run.load.book;
    let before = book.now();
    tokio::time::sleep(length / 3).await;
    let from = book.now();
    let scene: Scene = run.scene(zone, length, 1);
    let happening = perform(class, scene).await;
    ensure!(happening.happened, "{}", happening.evidence);
    let thawed = book.now();
    let equal = until("the zone has caught up", length, async || {
        let look = View::ask(&run.cluster).await;
        let lag = look.head.saturating_sub(look.frontiers.iter().copied().min()??);
        (lag <= LAG_IDS).then_some(())
    });
    equal.await?;
    let caught_up = Duration::from_nanos(book.now() - thawed);
    run.load.avoid(&[]);
    let took = |acks: Vec<Ack>| acks.iter().map(|ack| ack.took).collect::<Vec<u64>>();
    show("other zones' acknowledgements before", took(book.acks_between(before, from)));
    show("other zones' acknowledgements during", took(book.acks_between(from, thawed)));
    println!(
        "frozen {:.0} s, caught up in {:.1} s ({:.2} of the outage)",
        length.as_secs_f64(),
        caught_up.as_secs_f64(),
        caught_up.as_secs_f64() / length.as_secs_f64()
    );
    Ok(())
}

/// A zone that lags no more than a live one does at this load has caught up.
const LAG_IDS: u64 = 50;
