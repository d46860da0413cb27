//! Processor time of an idle deployment.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use pghc_dev::deployment::Deployment;
use pghc_dev::record::DeploymentRecord;

use super::closed::Window;
use super::load;
use super::measure::Measure;
use super::memory::processes;
use super::probe::cpu_of;
use super::sample::Sample;

/// Time for which one client writes: a chain of nothing could not be proved.
const USE: Duration = Duration::from_secs(1);
/// Time for connections and timers to come to rest.
const REST: Duration = Duration::from_secs(10);
/// Least time that is measured: the system counts in steps of 10 ms.
const LENGTH_MIN: Duration = Duration::from_secs(30);

/// Processor time of each process since its start; a PostgreSQL server includes its children.
fn used(record: &DeploymentRecord) -> BTreeMap<String, Duration> {
    let ours = processes(record).map(|(name, pid)| (name, cpu_of(pid)));
    let servers = record.zones.iter().map(|zone| {
        let server = zone.pids.postgres;
        let all = children_of(server).into_iter().chain([server]);
        (format!("{} PostgreSQL", zone.name), Some(all.filter_map(cpu_of).sum()))
    });
    ours.chain(servers).filter_map(|(name, used)| Some((name, used?))).collect()
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may contain spaces.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Uses the deployment for a moment, then leaves it alone and measures what that costs. Figures, in % of one core: the most that any
/// coordinator, any API node and any PostgreSQL server took. The rate is 0.
pub(super) async fn idle(measure: &Measure<'_>, deployment: &Deployment) -> anyhow::Result<Sample> {
    load::alone(measure.target, measure.payload_bytes, Window::after(Duration::ZERO, USE)).await?;
    tokio::time::sleep(REST).await;
    let (begun, before) = (tokio::time::Instant::now(), used(&deployment.record()));
    tokio::time::sleep(measure.length.max(LENGTH_MIN)).await;
    let (seconds, after) = (begun.elapsed().as_secs_f64(), used(&deployment.record()));
    let percent = |name: &String, used: &Duration| {
        let before = before.get(name).copied().unwrap_or_default();
        used.saturating_sub(before).as_secs_f64() / seconds * 100.0
    };
    let most = |of: &str| {
        let of = after.iter().filter(|(name, _)| name.contains(of));
        of.map(|(name, used)| percent(name, used)).fold(0.0, f64::max)
    };
    let mut sample = Sample::new(0.0);
    sample.figure("coordinator_percent", most("coordinator"));
    sample.figure("api_percent", most("API node"));
    sample.figure("postgres_percent", most("PostgreSQL"));
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::parent_of;

    #[test]
    fn the_parent_of_a_process_is_known() {
        if cfg!(target_os = "linux") {
            assert_eq!(parent_of(std::process::id()), Some(std::os::unix::process::parent_id()));
        }
    }
}
