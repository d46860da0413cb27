//! One run: faults, calm, convergence, and the final check.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pghc_api::chain::payload_digest;
use pghc_history::{Chain, Link, Operation, Options, ReadOutcome, Snapshot, Verdict, What, check};
use pghc_sim::{Zone, cluster_id};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::clients::Client;
use super::cluster::SimCluster;
use super::faults;
use super::many::Summary;

/// Time until writes flow and zones agree after the last fault was mended.
const CONVERGE_MAX: Duration = Duration::from_secs(30);

/// Runs seed `seed` for `seconds` of simulated time, two thirds of them in trouble.
pub(crate) fn run(seed: u64, seconds: u64) -> Summary {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O");
    runtime.block_on(simulate(seed, seconds))
}

async fn simulate(seed: u64, seconds: u64) -> Summary {
    let cluster = SimCluster::new(seed, seconds);
    let (stop, calm) = (CancellationToken::new(), CancellationToken::new());
    let count = u32::try_from(cluster.rng.between(3, 10)).expect("few");
    let clients: Vec<_> = (1..=count)
        .map(|number| tokio::spawn(Client::new(&cluster, number).run(stop.clone())))
        .collect();
    let poller = tokio::spawn(poll(Arc::clone(&cluster), stop.clone()));
    faults::found(&cluster).await;
    let trouble = tokio::spawn(faults::run(Arc::clone(&cluster), calm.clone()));
    sleep(Duration::from_secs(seconds * 2 / 3)).await;
    calm.cancel();
    trouble.await.expect("faults do not panic");
    cluster.is_calm.store(true, Ordering::Relaxed);
    let mended = Instant::now();
    flow(&cluster, mended).await;
    let converged_ms = mended.elapsed().as_millis();
    sleep(Duration::from_secs(seconds / 3)).await;
    stop.cancel();
    for client in clients {
        client.await.expect("clients do not panic");
    }
    poller.await.expect("the poller does not panic");
    agree(&cluster, Instant::now()).await;
    judge(&cluster, converged_ms)
}

/// Waits until something new was written after `mended` and every zone has it.
async fn flow(cluster: &SimCluster, mended: Instant) {
    let wanted = cluster.frontiers().1.into_iter().max().unwrap_or(0) + 10;
    while cluster.frontiers().1.iter().any(|frontier| *frontier < wanted) {
        if mended.elapsed() > CONVERGE_MAX {
            let frontiers = cluster.frontiers().1;
            cluster.fail(&format!(
                "no progress to id {wanted} in 30 s of calm: zones at {frontiers:?}"
            ));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all zones are equal and stay so.
async fn agree(cluster: &SimCluster, since: Instant) {
    loop {
        sleep(Duration::from_secs(1)).await;
        let (equal, frontiers) = cluster.frontiers();
        if equal {
            sleep(Duration::from_secs(6)).await;
            if cluster.frontiers() == (true, frontiers) {
                return;
            }
        } else if since.elapsed() > CONVERGE_MAX {
            cluster.fail(&format!("zones do not agree after 30 s of calm: {frontiers:?}"));
        }
    }
}

/// Polls the databases at intervals.
async fn poll(cluster: Arc<SimCluster>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        sleep(Duration::from_millis(700)).await;
        for (zone, number) in cluster.zones.iter().zip(0..) {
            let links = zone.database.links();
            let now = cluster.now();
            cluster.history.lock().snapshots.push(Snapshot {
                zone: number,
                replica: false,
                started: now,
                ended: now,
                max_id: links.last().map_or(0, |link| link.id.get()),
                count: links.len() as u64,
                digest: links.last().map(|link| link.digest),
            });
        }
    }
}

fn is_linearizable(operation: &Operation) -> bool {
    matches!(
        operation.what,
        What::Read { linearizable: true, outcome: ReadOutcome::Seen { .. }, .. }
    )
}

fn judge(cluster: &SimCluster, converged_ms: u128) -> Summary {
    let chain = |(zone, number): (&Zone, u16)| {
        let link = |link: pghc_api::chain::Link| Link {
            id: link.id.get(),
            node: link.node,
            written_at: link.written_at,
            payload: link.payload.map(|payload| payload_digest(payload.as_bytes())),
            hash: link.hash,
            digest: link.digest,
        };
        Chain { zone: number, links: zone.database.links().into_iter().map(link).collect() }
    };
    let chains: Vec<Chain> = cluster.zones.iter().zip(0..).map(chain).collect();
    let history = cluster.history.lock();
    let report = check(&history, &chains, &Options::new(cluster_id()));
    if report.verdict() != Verdict::Sound {
        let text = report.render(&history);
        drop(history);
        cluster.fail(&text);
    }
    Summary {
        links: chains[0].links.len() as u64,
        operations: history.operations.len(),
        acknowledged: report.counts.acknowledged,
        repeated: report.counts.repeated,
        early: cluster.early(),
        linearizable: history.operations.iter().filter(|it| is_linearizable(it)).count() as u64,
        faults: history.faults.clone(),
        converged_ms,
    }
}
