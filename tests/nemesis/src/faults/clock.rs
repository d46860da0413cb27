//! Wall clocks that jump at run time: F25.
//!
//! Coordinators run under libfaketime, which reads the offset from a file and leaves the monotonic
//! clock alone. The evidence is what a clock is for: the commit times of links, and the times in logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::{Ground, Unit};

/// Number of the classes of clocks in the matrix of faults.
pub const NUMBER: &str = "F25";

/// Path of libfaketime as Debian's package installs it.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Longest time until the leader's clock shows in commit times.
const STAMPED_MAX: Duration = Duration::from_secs(6);
/// Longest time until a coordinator that starts has logged something.
const LOGGED_MAX: Duration = Duration::from_secs(30);

/// Whether libfaketime is installed.
pub fn is_available() -> bool {
    Path::new(LIBRARY).exists()
}

pub(super) fn classes() -> Vec<Class> {
    let class = |name, aim, hold_ms, run| Class {
        name,
        number: NUMBER,
        reduced: false,
        hold_ms,
        aim,
        needs: Needs::Coordinator,
        weight: 1,
        run,
    };
    vec![
        class("clock-ahead", Aim::Leader, (1_500, 4_000), |s| ahead(s).boxed_local()),
        class("clock-behind", Aim::Biased, (500, 3_000), |s| behind(s).boxed_local()),
    ]
}

fn file(ground: &Ground, zone: usize) -> PathBuf {
    ground.work.join(format!("clock-{}", zone + 1))
}

/// Puts a coordinator's clock under our hand.
pub fn preload(command: &mut Command, ground: &Ground, zone: usize) {
    if !ground.sandbox || !is_available() {
        return;
    }
    let file = file(ground, zone);
    if !file.exists() {
        // A clock that cannot be set shows itself: the fault then does not happen.
        let _ = std::fs::write(&file, "+0\n");
    }
    command.env("LD_PRELOAD", LIBRARY).env("FAKETIME_TIMESTAMP_FILE", file);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_CACHE_DURATION", "1");
    command.env("FAKETIME_DONT_RESET", "1");
}

fn set(scene: &Scene, offset: &str) -> anyhow::Result<()> {
    // Renamed into place: a reader never sees half of it.
    let file = file(&scene.cluster.ground, scene.zone);
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n"))?;
    Ok(std::fs::rename(new, file)?)
}

/// Newest commit time in any zone, in seconds ahead of the real clock.
async fn lead(scene: &Scene) -> Option<f64> {
    let sql = scene.cluster.sql(scene.zone).await.ok()?;
    let query =
        "select extract(epoch from written_at - clock_timestamp())::float8 from pghc.frontier";
    sql.query(query).await.ok()?.first()?.get(0)
}

/// The leader's clock jumps an hour beyond any commit time, and back at the end. A leader that lost
/// its leadership before it stamped a batch is started again and logs the time.
async fn ahead(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let before = until("the database tells a time", LOGGED_MAX, async || lead(&scene).await);
    let before = before.await?.max(0.0);
    let hours = (before / 3600.0).ceil() + 1.0;
    let from = unit.log_bytes();
    set(&scene, &format!("+{hours}h"))?;
    let seen = until("commit times jump", STAMPED_MAX, async || {
        lead(&scene).await.filter(|now| *now > before + 1_000.0)
    });
    let seen = seen.await;
    scene.hold().await;
    let evidence = match seen {
        Ok(now) => Ok(format!("commit times jumped from {before:.0} s to {now:.0} s ahead")),
        Err(_) => restarted_ahead(unit, from).await,
    };
    set(&scene, "+0")?;
    evidence
}

/// Starts it again; the evidence is its log behind `from` bytes.
async fn restarted_ahead(unit: &Unit, from: u64) -> Outcome {
    unit.end(Signal::SIGTERM).await?;
    unit.start().await?;
    let told = until("its log shows the new time", LOGGED_MAX, async || {
        let latest = unit.log_since(from).lines().filter_map(logged_at).max()?;
        Some(latest.saturating_sub(seconds().ok()?)).filter(|ahead| *ahead > 1_000)
    });
    told.await.map(|ahead| format!("{} logged {ahead} s ahead", unit.name))
}

fn seconds() -> anyhow::Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

/// The coordinator ends, and comes back with a clock 5,000 s behind.
async fn behind(scene: Scene) -> Outcome {
    let unit = &scene.zone().coordinator;
    let from = unit.log_bytes();
    unit.end(Signal::SIGTERM).await?;
    let (set_back, started, now) = (set(&scene, "-5000"), unit.start().await, seconds()?);
    let behind = until("its log shows the old time", LOGGED_MAX, async || {
        let text = unit.log_since(from);
        let seconds = text.lines().filter_map(logged_at);
        seconds.map(|at| now.saturating_sub(at)).find(|behind| *behind > 4_000)
    });
    let behind = behind.await;
    scene.hold().await;
    set(&scene, "+0")?;
    set_back.and(started)?;
    let behind = behind?;
    ensure!(behind < 6_000, "{behind} s");
    Ok(format!("{} logged {behind} s behind", unit.name))
}

/// Seconds since 1970 of a log line that begins with a time in UTC.
fn logged_at(line: &str) -> Option<u64> {
    let word = line.split_whitespace().next()?;
    let micros: pghc_api::time::Micros = word.parse().ok()?;
    u64::try_from(micros.0 / 1_000_000).ok()
}
