//! A zone's PostgreSQL killed, stopped at once, or with one backend killed or paused: F20, F21.

use std::time::Duration;

use anyhow::{bail, ensure};
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use pghc_dev::process::signal;

use super::{Aim, Class, Needs, Outcome, Scene, until};

/// Backends tried to be killed before the fault counts as one that did not happen.
const BACKENDS_MAX: u32 = 5;

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, hold_ms, weight, run| Class {
        name,
        number,
        reduced: true,
        hold_ms,
        aim: Aim::Any,
        needs: Needs::Database,
        weight,
        run,
    };
    vec![
        class("database-kill", "F20", (50, 1_000), 2, |s| {
            postmaster(s, Signal::SIGKILL).boxed_local()
        }),
        class("database-stop", "F20", (50, 1_000), 1, |s| {
            postmaster(s, Signal::SIGQUIT).boxed_local()
        }),
        class("backend-kill", "F20", (500, 1_000), 2, |s| backend_kill(s).boxed_local()),
        class("backend-pause", "F21", (500, 6_000), 2, |s| backend_pause(s).boxed_local()),
    ]
}

/// Ends the postmaster and starts it again.
async fn postmaster(scene: Scene, by: Signal) -> Outcome {
    scene.database().await?;
    let unit = &scene.zone().postgres;
    let evidence = unit.end(by).await?;
    scene.hold().await;
    unit.start().await?;
    Ok(evidence)
}

/// Process id of the backend that applies, or of any that serves a node.
async fn backend(scene: &Scene) -> anyhow::Result<u32> {
    let sql = scene.database().await?;
    let query = "select pid from pg_stat_activity where datname = 'pghc' and pid <> pg_backend_pid() \
        and backend_type = 'client backend' order by query ilike '%moved%' desc, pid limit 1";
    let pid = until("a backend of the zone's nodes", Duration::from_secs(30), async || {
        let rows = sql.query(query).await.ok()?;
        u32::try_from(rows.first()?.get::<_, i32>(0)).ok()
    });
    pid.await
}

/// Kills backends until the postmaster reports a killed one: a backend may end, because its node
/// reconnects, between being found and being killed.
async fn backend_kill(scene: Scene) -> Outcome {
    let unit = &scene.zone().postgres;
    let (before, from, mut killed) = (unit.pid().await?, unit.log_bytes(), Vec::new());
    for _ in 0..BACKENDS_MAX {
        let pid = backend(&scene).await?;
        signal(pid, Signal::SIGKILL);
        killed.push(format!("(PID {pid}) was terminated by signal 9"));
        let told = until("the postmaster tells of one", Duration::from_secs(5), async || {
            let log = unit.log_since(from);
            killed.iter().find(|said| log.contains(*said)).cloned()
        });
        if let Ok(said) = told.await {
            scene.hold().await;
            ensure!(unit.pid().await? == before, "the postmaster itself ended");
            return Ok(format!("server process {said}"));
        }
    }
    bail!("{BACKENDS_MAX} backends were killed, and the postmaster tells of none");
}

/// Stops the applying backend: its client hangs on a connection that looks alive.
async fn backend_pause(scene: Scene) -> Outcome {
    for _ in 0..BACKENDS_MAX {
        let pid = backend(&scene).await?;
        signal(pid, Signal::SIGSTOP);
        let stopped = until("SIGSTOP", Duration::from_secs(5), async || {
            (super::process::state(pid)? == 'T').then_some(())
        });
        let stopped = stopped.await.is_ok();
        if stopped {
            scene.hold().await;
        }
        signal(pid, Signal::SIGCONT);
        if stopped {
            return Ok(format!("backend {pid} was in state T for {:?}", scene.hold));
        }
    }
    bail!("{BACKENDS_MAX} backends were stopped, and none stood still");
}
