//! The power of everything at once: off, on, and the start of all processes in any order.

use futures::future::join_all;

use super::Outcome;
use crate::cluster::{Cluster, Unit, Volume, Zone};

fn disks(zone: &Zone) -> [&Volume; 2] {
    [&zone.log_disk, &zone.data_disk]
}

/// Every disk loses its power within milliseconds, and every process dies.
///
/// # Errors
/// When a disk kept its power.
pub async fn off(cluster: &Cluster) -> Outcome {
    let mut evidence = Vec::new();
    for disk in cluster.zones.iter().flat_map(disks) {
        evidence.push(disk.power_cut()?);
    }
    join_all(cluster.units().map(Unit::put_down)).await;
    Ok(format!("{} disks lost their power: {}", evidence.len(), evidence[0]))
}

/// The disks come back, with what was synced.
///
/// # Errors
/// When one does not mount.
pub async fn on(cluster: &Cluster) -> anyhow::Result<()> {
    let mounted = join_all(cluster.zones.iter().flat_map(disks).map(Volume::power_on)).await;
    mounted.into_iter().collect()
}

/// Starts every process, in the order that `seed` says.
///
/// # Errors
/// When the operating system does not start one.
pub async fn start(cluster: &Cluster, seed: u64) -> anyhow::Result<()> {
    let units: Vec<&Unit> = cluster.units().collect();
    let first = usize::try_from(seed % 997).unwrap_or(0);
    // A step without a common divisor reaches every process once.
    let step = if units.len().is_multiple_of(5) { 3 } else { 5 };
    for place in 0..units.len() {
        units[(first + place * step) % units.len()].start().await?;
    }
    Ok(())
}
