//! Killed, stopped and paused coordinators and API nodes: F1 to F4, F19, F24.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use nix::sys::signal::Signal;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::Unit;

/// Longest time until the second node of a zone applies.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, aim, needs, hold_ms, weight, run| Class {
        name,
        number,
        reduced: true,
        hold_ms,
        aim,
        needs,
        weight,
        run,
    };
    vec![
        class("leader-kill", "F1", Aim::Leader, Needs::Coordinator, (200, 2_000), 3, |s| {
            kill(s).boxed_local()
        }),
        class("leader-stop", "F2", Aim::Leader, Needs::Coordinator, (200, 1_500), 2, |s| {
            stop(s).boxed_local()
        }),
        class("follower-kill", "F3", Aim::Follower, Needs::Coordinator, (200, 2_000), 2, |s| {
            kill(s).boxed_local()
        }),
        class("leader-pause", "F4", Aim::Leader, Needs::Coordinator, (150, 1_500), 3, |s| {
            pause(s).boxed_local()
        }),
        class("follower-pause", "F4", Aim::Follower, Needs::Coordinator, (150, 3_000), 1, |s| {
            pause(s).boxed_local()
        }),
        class("api-kill", "F24", Aim::Any, Needs::Api, (100, 1_500), 2, |s| {
            api_kill(s).boxed_local()
        }),
        class("api-pause", "F24", Aim::Any, Needs::Api, (500, 3_000), 1, |s| {
            api_pause(s).boxed_local()
        }),
        class("applier-pause", "F19", Aim::Pair, Needs::Api, (500, 2_000), 1, |s| {
            applier_pause(s).boxed_local()
        }),
    ]
}

async fn kill(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let evidence = unit.kill().await?;
    scene.hold().await;
    unit.start().await?;
    Ok(evidence)
}

async fn stop(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let evidence = unit.end(Signal::SIGTERM).await?;
    scene.hold().await;
    unit.start().await?;
    Ok(evidence)
}

async fn pause(scene: Scene) -> Outcome {
    freeze(&scene, &scene.zone().coordinator).await
}

async fn api_kill(scene: Scene) -> Outcome {
    let unit = node(&scene);
    let evidence = unit.kill().await?;
    scene.hold().await;
    unit.start().await?;
    Ok(evidence)
}

async fn api_pause(scene: Scene) -> Outcome {
    freeze(&scene, node(&scene)).await
}

fn node(scene: &Scene) -> &Unit {
    let api = &scene.zone().api;
    let index = scene.seed % u64::try_from(api.len()).unwrap_or(1);
    &api[usize::try_from(index).unwrap_or(0)]
}

/// Stops a process by SIGSTOP for a while.
async fn freeze(scene: &Scene, unit: &Unit) -> Outcome {
    let pid = unit.signal(Signal::SIGSTOP).await?;
    let stopped =
        until("SIGSTOP", Duration::from_secs(10), async || (state(pid)? == 'T').then_some(()));
    let stopped = stopped.await;
    scene.hold().await;
    unit.signal(Signal::SIGCONT).await?;
    stopped?;
    Ok(format!("{} (process {pid}) was in state T for {:?}", unit.name, scene.hold))
}

/// State of a process, as `/proc` shows it.
pub(super) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Stops the applier until the zone's other node applies, then lets it go on.
async fn applier_pause(scene: Scene) -> Outcome {
    let applier = until("an applier", TAKEOVER_MAX, async || {
        scene.view.look().appliers.get(scene.zone)?.clone()
    });
    let applier = applier.await?;
    let digit = applier.rsplit('-').next().and_then(|digit| digit.parse::<usize>().ok());
    let index = digit.and_then(|digit| digit.checked_sub(1)).context("a node's number")?;
    let unit = &scene.zone().api[index];
    let pid = unit.signal(Signal::SIGSTOP).await?;
    let taken = until("the other node applies", TAKEOVER_MAX, async || {
        let now = scene.view.look().appliers.get(scene.zone)?.clone()?;
        (now != applier).then_some(now)
    });
    let taken = taken.await;
    if taken.is_ok() {
        scene.hold().await;
    }
    unit.signal(Signal::SIGCONT).await?;
    let taken = taken?;
    ensure!(taken != applier, "nobody took over");
    Ok(format!("{applier} (process {pid}) stopped, {taken} took over"))
}
