//! Mixed versions: F29. A process is restarted from another build of pghc and stays there during
//! other faults, until a later fault or the end of the epoch brings it back.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;
use nix::sys::signal::Signal;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::{Build, Unit, View};

/// Longest time until a restarted process takes part again.
const BACK_MAX: Duration = Duration::from_secs(40);

pub(super) fn classes() -> Vec<Class> {
    let class = |name, needs, run| Class {
        name,
        number: "F29",
        reduced: true,
        hold_ms: (100, 1_000),
        aim: Aim::Any,
        needs,
        weight: 2,
        run,
    };
    vec![
        class("coordinator-build", Needs::Coordinator, |s| coordinator(s).boxed_local()),
        class("api-build", Needs::Api, |s| api(s).boxed_local()),
    ]
}

/// The class that brings a process back to the build under test.
pub fn return_of(name: &str) -> &'static str {
    if name.ends_with("coordinator") { "coordinator-build" } else { "api-build" }
}

async fn coordinator(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let evidence = exchanged(&scene, unit).await?;
    let id = scene.cluster.replacements.coordinator(scene.zone);
    let back = until("the group hears it", BACK_MAX, async || {
        let list = scene.cluster.members().await.ok()?;
        let member = list.members.into_iter().find(|member| member.coordinator_id == id)?;
        member.reachable.then_some(())
    });
    back.await?;
    Ok(evidence)
}

async fn api(scene: Scene) -> Outcome {
    let nodes = &scene.zone().api;
    // A node that runs the other build returns to its own first.
    let away = nodes.iter().position(|unit| unit.build() == Build::Old);
    let any = usize::try_from(scene.seed)? % nodes.len();
    let place = away.unwrap_or(any);
    let evidence = exchanged(&scene, &nodes[place]).await?;
    let address = scene.cluster.ground.api(scene.zone, place);
    let back =
        until("the node answers", BACK_MAX, async || View::answers(address).await.then_some(()));
    back.await?;
    Ok(evidence)
}

/// Ends a process, killed or asked to, and starts it from the other build.
async fn exchanged(scene: &Scene, unit: &Unit) -> Outcome {
    let before = unit.build();
    let build = if before == Build::New { Build::Old } else { Build::New };
    let by = if (scene.seed >> 8).is_multiple_of(2) { Signal::SIGTERM } else { Signal::SIGKILL };
    let ended = unit.end(by).await?;
    scene.hold().await;
    unit.set_build(build);
    unit.start().await?;
    let path = scene.cluster.ground.pghc(build);
    let pid = unit.pid().await?;
    let runs = until("the other build runs", BACK_MAX, async || {
        (program(unit.peek()?)? == path).then_some(())
    });
    runs.await?;
    ensure!(unit.pid().await? == pid, "{} of {} ended at once", unit.name, path.display());
    Ok(format!("{ended}; then {}", path.display()))
}

/// The file that a process runs.
fn program(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}
