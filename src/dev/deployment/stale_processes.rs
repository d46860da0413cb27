//! Ends processes of a killed supervisor before a new start on the same directory.
//!
//! Only processes whose command line names this cluster, or this data directory, are signalled.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::Error;
use super::plan::Plan;
use crate::ports::is_free;
use crate::postgres;
use crate::process::{self, command_line, identity, signal};
use crate::record::{DeploymentRecord, FILE};

/// Time a stale process has after SIGTERM, and again after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for the ports of what has just died.
const PORTS_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(25);

/// Ends the programs and servers of an earlier run on `data`, waits until their ports are free, and
/// removes its `parade.json`; returns whether the earlier run was not stopped properly.
pub(super) async fn clear(data: &Path, plan: &Plan) -> Result<bool, Error> {
    let record = DeploymentRecord::read(data);
    let of_record = record.iter().flat_map(|record| &record.zones).map(|zone| &zone.pids);
    let of_record = of_record.flat_map(|pids| pids.api.iter().copied().chain([pids.coordinator]));
    let known: BTreeSet<u32> = of_record.collect();
    // A supervisor that was killed while it started had written no record.
    let pids: BTreeSet<u32> = known.iter().copied().chain(process::all()).collect();
    let cluster = plan.cluster_id.as_str();
    let ended = pids.into_iter().map(|pid| end(data, pid, cluster, known.contains(&pid)));
    let mut found = futures::future::try_join_all(ended).await?.contains(&true);
    let servers = plan.zones.iter().map(|zone| async move {
        let cleared = postgres::clear_stale_server(&postgres_dir(data, zone.name.as_str())).await;
        cleared.map_err(|source| Error::Postgres { zone: zone.name.to_string(), source })
    });
    found |= futures::future::try_join_all(servers).await?.contains(&true);
    if found || record.is_ok() {
        let deadline = Instant::now() + PORTS_MAX;
        while !plan.ports().all(is_free) && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
    match std::fs::remove_file(data.join(FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", data.join(FILE))(error))
        }
        _ => Ok(found),
    }
}

/// Data directory of a zone's PostgreSQL.
pub(super) fn postgres_dir(data: &Path, zone: &str) -> std::path::PathBuf {
    data.join("zones").join(zone).join("pg")
}

/// Ends a process if its command line names this cluster; returns whether it did. A process of the
/// record (`is_known`) without a command line is dying.
async fn end(data: &Path, pid: u32, cluster: &str, is_known: bool) -> Result<bool, Error> {
    let Some(born) = identity(pid) else { return Ok(false) };
    match command_line(pid) {
        Some(line) if is_part_of(&line, cluster) => {}
        None if is_known => return Ok(has_ended(pid, &born).await),
        _ => return Ok(false),
    }
    for by in [Signal::SIGTERM, Signal::SIGKILL] {
        tracing::info!(pid, signal = %by, "process of an earlier run signalled");
        signal(pid, by);
        signal(pid, Signal::SIGCONT);
        if has_ended(pid, &born).await {
            return Ok(true);
        }
    }
    Err(Error::StaleProcess { pid, data: data.to_owned() })
}

/// Waits a while until a process has ended; returns whether it has.
async fn has_ended(pid: u32, born: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while identity(pid).as_deref() == Some(born) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Whether a command line is `… coordinator|api … --cluster-id CLUSTER …`. The program's own name is
/// not looked at: a script in its place is found behind its interpreter.
fn is_part_of(arguments: &[String], cluster: &str) -> bool {
    arguments.iter().any(|argument| argument == "coordinator" || argument == "api")
        && arguments.windows(2).any(|pair| pair[0] == "--cluster-id" && pair[1] == cluster)
}

#[cfg(test)]
mod tests {
    use super::is_part_of;

    #[test]
    fn only_processes_of_this_cluster_are_taken_for_leftovers() {
        let check =
            |line: &str| is_part_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), "u-1");
        assert!(check("/bin/pghc api --cluster-id u-1 --zone eu"));
        assert!(check("/bin/sh /bin/pghc coordinator --cluster-id u-1"));
        assert!(!check("/bin/pghc api --cluster-id u-2 --zone eu"));
        assert!(!check("vi u-1 --cluster-id"));
    }
}
