//! Measures disturbed zones: catch-up of a zone whose API node was stopped, and writes in the other
//! zones while one zone's database is frozen.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use pghc_dev::deployment::{Deployment, Part};
use pghc_dev::process::signal;

use super::closed::{Tally, Window};
use super::load;
use super::measure::Measure;
use super::sample::Sample;
use super::zones::{SETTLED_MAX, Zones, per_second};
use crate::target::Target;

/// Longest wait for the end of a stopped process.
const ENDED_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// The zone that is brought into trouble: the last one, where no client of `alone` writes.
fn victim(target: &Target) -> anyhow::Result<(usize, &str)> {
    anyhow::ensure!(target.zones.len() > 1, "a zone can only be away where there is another");
    let place = target.zones.len() - 1;
    Ok((place, &target.zones[place].name))
}

/// The zones of `target` without the zone of this number.
fn others(target: &Target, without: usize) -> Target {
    let mut zones = target.zones.clone();
    zones.remove(without);
    Target { zones }
}

/// Stops the API node of a zone, writes in the others, starts it again, and measures how fast it
/// applies what it missed. The rate is from the first link it applies to the last, so starting the
/// process is not in it; figure `wait_s` tells how long that took.
///
/// # Errors
/// When the node does not end, or the zone does not catch up.
pub(super) async fn catch_up(
    measure: &Measure<'_>,
    deployment: &Deployment,
    zones: &Zones,
) -> anyhow::Result<Sample> {
    let (place, zone) = victim(measure.target)?;
    let from = zones.settled().await?;
    let node = Part::Api(0);
    deployment.pause_supervision(zone, node).await?;
    deployment.kill(zone, node, Signal::SIGTERM).await?;
    let missed = write_while_away(measure, deployment, zones, place).await;
    let begun = Instant::now();
    deployment.resume_supervision(zone, node).await?;
    let target = missed?;
    let (first, first_at) = zones.passed(place, from, SETTLED_MAX).await?;
    let (last, last_at) = if first >= target {
        (first, first_at)
    } else {
        zones.passed(place, target - 1, SETTLED_MAX).await?
    };
    anyhow::ensure!(
        last > first,
        "the zone had only {} links to catch up with; measure for longer",
        last - from
    );
    let mut sample = Sample::new(per_second(last - first, last_at - first_at));
    #[expect(clippy::cast_precision_loss, reason = "links of one turn are far below 2^52")]
    sample.figure("links", (last - from) as f64);
    sample.figure("wait_s", (first_at - begun).as_secs_f64());
    deployment.ready(SETTLED_MAX).await?;
    zones.settled().await?;
    Ok(sample)
}

/// Writes in the other zones while the API node of zone `place` is away; returns the newest id.
async fn write_while_away(
    measure: &Measure<'_>,
    deployment: &Deployment,
    zones: &Zones,
    place: usize,
) -> anyhow::Result<u64> {
    let zone = &measure.target.zones[place].name;
    let deadline = Instant::now() + ENDED_MAX;
    while deployment.pid(zone, Part::Api(0)).is_some() {
        if Instant::now() >= deadline {
            bail!("the API node of zone {zone} did not end within {ENDED_MAX:?}");
        }
        tokio::time::sleep(POLL).await;
    }
    let rest = others(measure.target, place);
    load::bulk(&rest, measure.payload_bytes, measure.window()).await?;
    let frontiers = zones.frontiers().await?;
    Ok(frontiers.into_iter().max().unwrap_or_default())
}

/// Processes of one PostgreSQL server, stopped by SIGSTOP until this value is dropped.
#[derive(Debug)]
struct Frozen {
    pids: Vec<u32>,
}

impl Frozen {
    /// Freezes the postmaster first, so that it starts nothing new, and then what it has started.
    fn new(postmaster: u32) -> anyhow::Result<Self> {
        let mut frozen = Self { pids: vec![postmaster] };
        signal(postmaster, Signal::SIGSTOP);
        let children = children(postmaster).context("cannot find the server's processes")?;
        anyhow::ensure!(!children.is_empty(), "process {postmaster} has no children to freeze");
        children.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        frozen.pids.extend(children);
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.pids.iter().rev() {
            signal(*pid, Signal::SIGCONT);
        }
    }
}

/// Direct children of a process.
fn children(parent: u32) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end between the two; then it is no child any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
        let ppid = after_name.and_then(|rest| rest.split_whitespace().nth(1));
        if ppid.and_then(|ppid| ppid.parse().ok()) == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Single writes over the other zones, first healthy, then while the database of one is frozen.
/// The same clients both times. The rate is that under the freeze; figure `healthy` the other.
///
/// # Errors
/// When the server cannot be frozen, writes are refused, or the zone does not come back.
pub(super) async fn slow_zone(
    measure: &Measure<'_>,
    deployment: &Deployment,
    zones: &Zones,
) -> anyhow::Result<Sample> {
    let (place, zone) = victim(measure.target)?;
    let rest = others(measure.target, place);
    let write = async |window: Window| load::single(&rest, measure.payload_bytes, window).await;
    let healthy: Tally = write(measure.window()).await?;
    let postmaster = deployment.pid(zone, Part::Postgres);
    let postmaster = postmaster.with_context(|| format!("zone {zone} has no database"))?;
    let frozen = Frozen::new(postmaster)?;
    let tally = write(measure.window()).await;
    drop(frozen);
    let mut sample = Sample::of(tally?);
    sample.figure("healthy_per_second", healthy.rate());
    deployment.ready(SETTLED_MAX).await?;
    zones.settled().await?;
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pghc_dev::process::Process;
    use tokio::process::Command;

    use super::{Frozen, children};

    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    async fn reaches(pid: u32, wanted: impl Fn(char) -> bool) {
        let reached = async {
            while !state(pid).is_some_and(&wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the state is reached");
    }

    #[tokio::test]
    async fn frozen_process_resumes_on_drop() {
        let mut process = Process::default();
        let mut command = Command::new("sh");
        process.spawn(command.args(["-c", "sleep 600 & wait"])).expect("sh is there");
        let parent = process.pid().expect("it runs");
        let child = loop {
            if let [child] = children(parent).expect("/proc is there")[..] {
                break child;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let frozen = Frozen::new(parent).expect("it has a child");
        for pid in [parent, child] {
            reaches(pid, |state| state == 'T').await;
        }
        drop(frozen);
        for pid in [parent, child] {
            reaches(pid, |state| state != 'T').await;
        }
        pghc_dev::process::signal(child, nix::sys::signal::Signal::SIGKILL);
        process.kill().await.expect("it is reaped");
    }
}
