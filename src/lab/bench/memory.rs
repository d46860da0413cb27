//! Memory of coordinators and API nodes while all of pghc is busy for minutes.
//!
//! Single writes run all the time and bulk writes in short bursts, because minutes of bulk writes
//! would fill a disk. The load ends early, with a message, before the disk is full.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pghc_dev::deployment::Deployment;
use pghc_dev::record::DeploymentRecord;
use pghc_runtime::output;

use super::closed::Window;
use super::load;
use super::measure::Measure;
use super::options::Options;
use super::sample::{Curve, Sample};

/// Time between two polls.
const LOOK: Duration = Duration::from_secs(1);
/// Length of a burst of bulk writes.
const BURST: Duration = Duration::from_secs(5);
/// Time from the start of a burst to the next.
const BURSTS_APART: Duration = Duration::from_secs(20);
/// Free disk space below which the run ends.
const FREE_BYTES_MIN: u64 = 6 << 30;

const KIB_PER_MIB: f64 = 1024.0;

/// Current memory of a process in MiB; `None` when the process has ended or the system does not
/// report it.
fn rss_mib(pid: u32) -> Option<f64> {
    status_mib(pid, "VmRSS:")
}

/// Most memory a process ever had, in MiB.
pub(super) fn peak_rss_mib(pid: u32) -> Option<f64> {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / KIB_PER_MIB)
}

/// The processes of pghc by name.
pub(super) fn processes(record: &DeploymentRecord) -> impl Iterator<Item = (String, u32)> {
    record.zones.iter().flat_map(|zone| {
        let coordinator = (format!("{} coordinator", zone.name), zone.pids.coordinator);
        let nodes = zone.pids.api.iter().enumerate();
        let nodes =
            nodes.map(|(place, pid)| (format!("{} API node {}", zone.name, place + 1), *pid));
        std::iter::once(coordinator).chain(nodes)
    })
}

/// Polls the memory of all processes until dropped.
async fn watch(
    deployment: &Deployment,
    begun: Instant,
    curves: &mut BTreeMap<String, Vec<(f64, f64)>>,
) {
    loop {
        let now = begun.elapsed().as_secs_f64();
        for (name, pid) in processes(&deployment.record()) {
            if let Some(mib) = rss_mib(pid) {
                curves.entry(name).or_default().push((now, mib));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Bytes that may still be written below `directory`.
fn free_bytes(directory: &Path) -> Option<u64> {
    let space = nix::sys::statvfs::statvfs(directory).ok()?;
    Some(space.blocks_available() * space.fragment_size())
}

/// Full load for the time in `options`. The rate is that of the single writes. Figures:
/// `coordinator_mib` and `api_mib`, the peak of any process of that kind; `growth`, the largest
/// ratio of a process's mean memory in the last quarter to that in the second; `minutes`, the
/// actual length.
///
/// # Errors
/// When a node cannot be reached or refuses most of what is sent.
pub(super) async fn memory(
    measure: &Measure<'_>,
    deployment: &Deployment,
    options: &Options,
) -> anyhow::Result<Sample> {
    let length = options.memory_length;
    let begun = Instant::now();
    let mut curves = BTreeMap::new();
    let mut tallies = Vec::new();
    let loading = async {
        // In pieces, so that each ends soon after the disk gets short.
        while begun.elapsed() < length && !options.stop.is_cancelled() {
            if free_bytes(deployment.data()).is_some_and(|free| free < FREE_BYTES_MIN) {
                output::complain(&format!(
                    "ending early: less than {} GiB of disk are left",
                    FREE_BYTES_MIN >> 30
                ));
                break;
            }
            let piece = BURSTS_APART.min(length.saturating_sub(begun.elapsed()));
            let (target, bytes) = (measure.target, measure.payload_bytes);
            let singles = load::single(target, bytes, Window::after(Duration::ZERO, piece));
            let burst = Window::after(Duration::ZERO, BURST.min(piece));
            let (single, bulk) = tokio::try_join!(singles, load::bulk(target, bytes, burst))?;
            tallies.push((single, bulk));
        }
        anyhow::Ok(())
    };
    tokio::select! {
        loaded = loading => loaded?,
        () = watch(deployment, begun, &mut curves) => unreachable!("it watches until it is dropped"),
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let units: f64 = tallies.iter().map(|(single, _)| single.units).sum();
    let mut sample = Sample::new(units / (minutes * 60.0));
    for (single, bulk) in tallies {
        sample.failures += single.failures + bulk.failures;
        sample.first_failure = sample.first_failure.or(single.first_failure).or(bulk.first_failure);
    }
    let most = |of: &str| {
        let of = curves.iter().filter(|(name, _)| name.contains(of));
        of.flat_map(|(_, points)| points).map(|(_, mib)| *mib).fold(0.0, f64::max)
    };
    sample.figure("coordinator_mib", most("coordinator"));
    sample.figure("api_mib", most("API node"));
    sample.figure("growth", curves.values().map(|points| growth(points)).fold(0.0, f64::max));
    sample.figure("minutes", minutes);
    let curve = |(name, points)| Curve { name, unit: "MiB", points };
    sample.curves = curves.into_iter().map(curve).collect();
    Ok(sample)
}

/// Mean of the last quarter by that of the second: what is warm by then should not grow any more.
/// 1 when there are too few points.
fn growth(points: &[(f64, f64)]) -> f64 {
    let quarter = points.len() / 4;
    #[expect(clippy::cast_precision_loss, reason = "points are seconds of one run")]
    let mean =
        |part: &[(f64, f64)]| part.iter().map(|point| point.1).sum::<f64>() / part.len() as f64;
    if quarter == 0 {
        return 1.0;
    }
    mean(&points[points.len() - quarter..]) / mean(&points[quarter..2 * quarter])
}

#[cfg(test)]
mod tests {
    use super::{growth, peak_rss_mib, rss_mib};

    #[test]
    fn growth_compares_the_last_quarter_with_the_second() {
        let points = |values: [f64; 8]| values.map(|value| (0.0, value)).to_vec();
        let flat = growth(&points([1.0, 5.0, 10.0, 10.0, 99.0, 0.0, 10.0, 10.0]));
        assert!((flat - 1.0).abs() < 1e-9, "{flat}");
        let grown = growth(&points([1.0, 5.0, 10.0, 10.0, 10.0, 10.0, 12.0, 12.0]));
        assert!((grown - 1.2).abs() < 1e-9, "{grown}");
        assert!((growth(&[(0.0, 7.0)]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_memory_of_a_process_is_told_in_mib() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let own = rss_mib(std::process::id()).expect("we run");
        assert!((1.0..10_000.0).contains(&own), "{own}");
        assert!(peak_rss_mib(std::process::id()).expect("we run") >= own * 0.9);
        assert_eq!(rss_mib(u32::MAX), None);
    }
}
