//! Ending what a killed supervisor left behind, before anything new starts on its directory.
//!
//! Only processes whose command line names this cluster, or this data directory, are signalled.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::Error;
use super::plan::Plan;
use crate::dev::postgres;
use crate::dev::process::{command_line, signal};
use crate::dev::record::{FILE, ParadeRecord};

/// Time a leftover has after SIGTERM, and again after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(25);

/// Ends the programs and servers of an earlier run on `data` and removes its `parade.json`.
pub(super) async fn clear(data: &Path, plan: &Plan) -> Result<(), Error> {
    if let Ok(record) = ParadeRecord::read(data) {
        let pids = record.zones.iter().flat_map(|zone| {
            zone.pids.api.iter().copied().chain([zone.pids.coordinator]).collect::<Vec<_>>()
        });
        let cluster = plan.cluster_id.as_str();
        futures::future::try_join_all(pids.map(|pid| end(data, pid, cluster))).await?;
    }
    let servers = plan.zones.iter().map(|zone| async move {
        let cleared = postgres::clear_leftover(&postgres_dir(data, zone.name.as_str())).await;
        cleared.map_err(|source| Error::Postgres { zone: zone.name.to_string(), source })
    });
    futures::future::try_join_all(servers).await?;
    match std::fs::remove_file(data.join(FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", data.join(FILE))(error))
        }
        _ => Ok(()),
    }
}

/// Data directory of a zone's PostgreSQL.
pub(super) fn postgres_dir(data: &Path, zone: &str) -> std::path::PathBuf {
    data.join("zones").join(zone).join("pg")
}

async fn end(data: &Path, pid: u32, cluster: &str) -> Result<(), Error> {
    let is_ours = || command_line(pid).is_some_and(|line| is_part_of(&line, cluster));
    for by in [Signal::SIGTERM, Signal::SIGKILL] {
        if !is_ours() {
            return Ok(());
        }
        tracing::info!(pid, signal = %by, "ending a process left by an earlier run");
        signal(pid, by);
        signal(pid, Signal::SIGCONT);
        let deadline = Instant::now() + PATIENCE;
        while is_ours() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
    if is_ours() {
        return Err(Error::Leftover { pid, data: data.to_owned() });
    }
    Ok(())
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
