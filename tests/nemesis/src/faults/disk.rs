//! Disks without power, without room, with errors, or slow: F10, F12 to F15.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use pghc_dev::process::Process;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::Unit;

/// How often a process that ends is traced anew.
const ATTACH_MAX: usize = 3;

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, aim, needs, hold_ms, weight, run| Class {
        name,
        number,
        reduced: false,
        hold_ms,
        aim,
        needs,
        weight,
        run,
    };
    let (log, data) = (Needs::Coordinator, Needs::Database);
    vec![
        class("power-cut-coordinator", "F10", Aim::Biased, log, (100, 1_500), 3, |s| {
            power_cut_log(s).boxed_local()
        }),
        class("power-cut-database", "F10", Aim::Any, data, (100, 1_000), 3, |s| {
            power_cut_data(s).boxed_local()
        }),
        class("fsync-error", "F12", Aim::Biased, log, (500, 1_500), 2, |s| {
            fsync_error(s).boxed_local()
        }),
        class("fsync-stall", "F13", Aim::Biased, log, (1_000, 4_000), 2, |s| {
            fsync_stall(s).boxed_local()
        }),
        class("disk-full-coordinator", "F14", Aim::Biased, log, (1_000, 4_000), 1, |s| {
            full_log(s).boxed_local()
        }),
        class("disk-full-database", "F15", Aim::Any, data, (1_000, 4_000), 1, |s| {
            full_data(s).boxed_local()
        }),
    ]
}

/// The machine of a coordinator loses its power.
async fn power_cut_log(scene: Scene) -> Outcome {
    let zone = scene.zone();
    let evidence = zone.log_disk.power_cut();
    zone.coordinator.put_down().await;
    scene.hold().await;
    zone.log_disk.power_on().await?;
    zone.coordinator.start().await?;
    evidence
}

/// The machine of a zone's PostgreSQL loses its power.
async fn power_cut_data(scene: Scene) -> Outcome {
    let zone = scene.zone();
    let evidence = zone.data_disk.power_cut();
    zone.postgres.put_down().await;
    scene.hold().await;
    zone.data_disk.power_on().await?;
    zone.postgres.start().await?;
    evidence
}

/// Every flush of the coordinator's log fails.
async fn fsync_error(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let hits = traced(&scene, unit, "error=EIO", "INJECTED").await?;
    Ok(format!("{hits} flushes of {} answered EIO", unit.name))
}

/// Every flush of the coordinator's log takes 0.2 to 2 s.
async fn fsync_stall(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let micros = [200_000, 500_000, 1_000_000, 2_000_000][usize::try_from(scene.seed % 4)?];
    let hits = traced(&scene, unit, &format!("delay_enter={micros}"), "DELAYED").await?;
    Ok(format!("{hits} flushes of {} took {micros} us more", unit.name))
}

/// Lets `strace` change the flushes of a process for a while, and counts those it changed.
async fn traced(scene: &Scene, unit: &Unit, inject: &str, mark: &str) -> anyhow::Result<usize> {
    for _ in 1..ATTACH_MAX {
        if let Some(hits) = attached(scene, unit, inject, mark).await? {
            return Ok(hits);
        }
    }
    let hits = attached(scene, unit, inject, mark).await?;
    hits.with_context(|| format!("{} ended before it could be traced, again and again", unit.name))
}

/// As [`traced`]; `None` when the process ended before any flush was changed: an earlier fault may have
/// ended it just now.
async fn attached(
    scene: &Scene,
    unit: &Unit,
    inject: &str,
    mark: &str,
) -> anyhow::Result<Option<usize>> {
    let pid = unit.pid().await?;
    let log: PathBuf = scene.cluster.ground.logs().join(format!("strace-{}.txt", scene.seed));
    let mut command = tokio::process::Command::new("strace");
    command.args(["-f", "-q", "-e", "trace=fsync,fdatasync"]);
    command.arg("-e").arg(format!("inject=fsync,fdatasync:{inject}"));
    command.arg("-o").arg(&log).arg("-p").arg(pid.to_string());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut strace = Process::default();
    strace.spawn(&mut command)?;
    let hits = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains(mark)).count()
    };
    // Without load there may be nothing to flush; the schedule has load.
    let has_ended = || !Path::new("/proc").join(pid.to_string()).exists();
    let first = until("a flush was changed", Duration::from_secs(30), async || {
        let ended = has_ended();
        (hits() > 0 || ended).then_some(())
    });
    let first = first.await;
    if hits() > 0 {
        scene.hold().await;
    }
    strace.stop(Signal::SIGINT, Duration::from_secs(20)).await?;
    first?;
    let hits = hits();
    // A run leaves hundreds of these; only a failing fault's is of interest.
    let _ = std::fs::remove_file(log);
    Ok(Some(hits).filter(|hits| *hits > 0))
}

async fn full_log(scene: Scene) -> Outcome {
    let disk = &scene.zone().log_disk;
    let evidence = disk.fill();
    scene.hold().await;
    disk.empty()?;
    evidence
}

async fn full_data(scene: Scene) -> Outcome {
    let disk = &scene.zone().data_disk;
    let evidence = disk.fill();
    scene.hold().await;
    disk.empty()?;
    evidence
}
