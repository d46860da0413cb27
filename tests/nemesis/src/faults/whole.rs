//! Faults of everything at once: F2 (rolling), F9, F11.

use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;
use nix::sys::signal::Signal;

use super::{Aim, Class, Needs, Outcome, Scene, power, until};
use crate::cluster::{View, ZONES};

/// Longest time until a restarted member takes part again.
const BACK_MAX: Duration = Duration::from_secs(60);

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, reduced, hold_ms, run| Class {
        name,
        number,
        reduced,
        hold_ms,
        aim: Aim::Any,
        needs: Needs::Everything,
        weight: 1,
        run,
    };
    vec![
        class("quorum-lost", "F9", true, (1_000, 3_000), |s| quorum_lost(s).boxed_local()),
        class("rolling-restart", "F2", true, (300, 600), |s| rolling(s).boxed_local()),
        class("power-cut-everything", "F11", false, (200, 1_000), |s| blackout(s).boxed_local()),
    ]
}

/// Two of three coordinators are stopped: no write sent now may be acknowledged. A write sent
/// before may have been committed, and is answered when its zone has applied it.
async fn quorum_lost(scene: Scene) -> Outcome {
    let gone = [scene.zone, (scene.zone + 1) % ZONES];
    for zone in gone {
        scene.cluster.zones[zone].coordinator.kill().await?;
    }
    let from = scene.load.book.now();
    scene.hold().await;
    let acks = scene.load.book.acks_between(from, scene.load.book.now());
    let acks = acks.iter().filter(|ack| ack.at.saturating_sub(ack.took) > from).count();
    for zone in gone {
        scene.cluster.zones[zone].coordinator.start().await?;
    }
    if acks > 0 {
        let text = format!("{acks} writes acknowledged that were sent when the quorum was gone");
        scene.load.book.finding(text);
    }
    Ok(format!("coordinators {gone:?} killed, {acks} acknowledgements in {:?}", scene.hold))
}

/// Restarts every process by SIGTERM, one after the other, as an upgrade does.
async fn rolling(scene: Scene) -> Outcome {
    let mut restarted = 0;
    for zone in &scene.cluster.zones {
        for unit in [&zone.coordinator].into_iter().chain(&zone.api) {
            let before = unit.pid().await?;
            unit.end(Signal::SIGTERM).await?;
            unit.start().await?;
            ensure!(unit.pid().await? != before, "{} was not restarted", unit.name);
            restarted += 1;
            let whole = until("the cluster is whole", BACK_MAX, async || {
                View::ready(&scene.cluster)
                    .await
                    .iter()
                    .all(|trouble| trouble.starts_with("head"))
                    .then_some(())
            });
            whole.await?;
        }
    }
    Ok(format!("{restarted} processes restarted one by one"))
}

async fn blackout(scene: Scene) -> Outcome {
    let evidence = power::off(&scene.cluster).await?;
    scene.hold().await;
    power::on(&scene.cluster).await?;
    power::start(&scene.cluster, scene.seed).await?;
    Ok(evidence)
}
