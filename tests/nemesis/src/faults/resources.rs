//! Too little processor, none at all, or too little memory, by control groups: F23, F26.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;

use super::{Aim, Class, Needs, Outcome, Scene, until};

/// Where the controllers are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Rounds of moving processes out of a group: each may leave behind what was started during it.
const LEAVE_ROUNDS_MAX: usize = 20;

/// Longest time until a limit is met.
const MET_MAX: Duration = Duration::from_secs(30);

pub(super) fn classes() -> Vec<Class> {
    if !Path::new(CGROUPS).join("freezer/cgroup.procs").exists() {
        return Vec::new();
    }
    let class = |name, number, aim, needs, hold_ms, run| Class {
        name,
        number,
        reduced: false,
        hold_ms,
        aim,
        needs,
        weight: 1,
        run,
    };
    vec![
        class("cpu-quota", "F26", Aim::Biased, Needs::Zone, (2_000, 5_000), |s| {
            quota(s).boxed_local()
        }),
        class("zone-freeze", "F23", Aim::Biased, Needs::Zone, (500, 4_000), |s| {
            frozen(s).boxed_local()
        }),
        class("memory-limit", "F26", Aim::Biased, Needs::Coordinator, (1_500, 3_000), |s| {
            memory(s).boxed_local()
        }),
    ]
}

/// A control group of one fault; its processes go back when it is left.
struct Group {
    path: PathBuf,
    root: PathBuf,
}

impl Group {
    fn create(scene: &Scene, controller: &str) -> anyhow::Result<Self> {
        let root = Path::new(CGROUPS).join(controller);
        let path = root.join(&scene.cluster.ground.group).join(format!("fault{}", scene.seed));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, root })
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        fs::write(self.path.join(name), value).with_context(|| format!("write {name}"))
    }

    fn get(&self, name: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path.join(name)).with_context(|| format!("read {name}"))
    }

    /// Moves processes in. A process that has ended is no error.
    fn take(&self, pids: &[u32]) -> anyhow::Result<usize> {
        let moved = pids.iter().filter(|pid| self.set("cgroup.procs", &pid.to_string()).is_ok());
        let moved = moved.count();
        ensure!(moved > 0, "no process could be moved into {}", self.path.display());
        Ok(moved)
    }

    /// Moves everything back, also what was started meanwhile.
    fn leave(self) -> anyhow::Result<()> {
        for _ in 0..LEAVE_ROUNDS_MAX {
            let left = self.get("cgroup.procs")?;
            if left.is_empty() {
                break;
            }
            for pid in left.lines() {
                // The process may end meanwhile, and the remaining ones may start others.
                let _ = fs::write(self.root.join("cgroup.procs"), pid);
            }
        }
        // A directory that is still busy is removed at the end of the run.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }
}

/// Every process of the zone, backends too.
async fn of_zone(scene: &Scene) -> Vec<u32> {
    let mut pids = Vec::new();
    for unit in scene.zone().units() {
        pids.extend(unit.pid().await.ok());
    }
    let parents = pids.clone();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent.is_some_and(|parent: u32| parents.contains(&parent)) {
            pids.push(pid);
        }
    }
    pids
}

/// The whole zone gets a tenth of a processor.
async fn quota(scene: Scene) -> Outcome {
    let group = Group::create(&scene, "cpu")?;
    group.set("cpu.cfs_period_us", "100000")?;
    group.set("cpu.cfs_quota_us", "10000")?;
    let moved = group.take(&of_zone(&scene).await)?;
    scene.hold().await;
    let throttled = until("a process is throttled", MET_MAX, async || {
        let stat = group.get("cpu.stat").ok()?;
        let count: u64 =
            stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok())?;
        (count > 0).then_some(count)
    });
    let throttled = throttled.await;
    // A process that cannot leave is free all the same.
    let freed = group.set("cpu.cfs_quota_us", "-1");
    group.leave()?;
    freed?;
    let throttled = throttled?;
    Ok(format!("{moved} processes throttled {throttled} times"))
}

/// Freezes the whole zone.
async fn frozen(scene: Scene) -> Outcome {
    let group = Group::create(&scene, "freezer")?;
    let moved = group.take(&of_zone(&scene).await)?;
    let ordered = group.set("freezer.state", "FROZEN");
    // A process that waits for its disk is frozen when the disk answers.
    let stands = until("every process is frozen", MET_MAX, async || {
        group.get("freezer.state").ok().filter(|state| state.trim() == "FROZEN")
    });
    let stands = stands.await;
    scene.hold().await;
    let thawed = group.set("freezer.state", "THAWED");
    group.leave()?;
    ordered.and(thawed)?;
    stands?;
    Ok(format!("{moved} processes frozen for {:?}", scene.hold))
}

/// The coordinator gets next to no new memory: it waits for what it frees, or is killed.
async fn memory(scene: Scene) -> Outcome {
    let group = Group::create(&scene, "memory")?;
    group.set("memory.limit_in_bytes", "262144")?;
    let unit = &scene.zone().coordinator;
    let pid = until("its process is in the group", MET_MAX, async || {
        let pid = unit.peek()?;
        group.take(&[pid]).is_ok().then_some(pid)
    });
    let pid = pid.await?;
    let has_ended = || !Path::new("/proc").join(pid.to_string()).exists();
    let hits = until("the limit is met", MET_MAX, async || {
        let hits: u64 = group.get("memory.failcnt").ok()?.trim().parse().ok()?;
        (hits > 0 || has_ended()).then_some(hits)
    });
    let hits = hits.await;
    scene.hold().await;
    group.leave()?;
    let (hits, ended) = (hits?, has_ended());
    Ok(format!("{} met the limit {hits} times{}", unit.name, if ended { " and ended" } else { "" }))
}
