//! Voting zones: a deployment is founded with all coordinators as voters, and the learners are demoted
//! by the same command that operators use.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pghc_api::id::ZoneName;
use tokio::process::Command;
use tokio::time::timeout;

use crate::record::DeploymentRecord;

/// Longest one change may take.
const CHANGE_MAX: Duration = Duration::from_secs(60);

/// The zones that are to vote.
#[derive(Debug)]
pub(super) struct Voters {
    binary: PathBuf,
    zones: Vec<ZoneName>,
    are_settled: AtomicBool,
}

impl Voters {
    pub(super) fn new(binary: PathBuf, zones: Vec<ZoneName>) -> Self {
        Self { binary, zones, are_settled: AtomicBool::new(false) }
    }

    /// Promotes and demotes what is not yet so, once; may be repeated after a failure.
    ///
    /// # Errors
    /// The error of the command.
    pub(super) async fn settle(&self, record: &DeploymentRecord) -> Result<(), String> {
        if self.are_settled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let votes = |place: &usize| self.zones.contains(&record.zones[*place].name);
        let places = 0..record.zones.len();
        for place in places.clone().filter(votes) {
            self.change("promote", place + 1, record).await?;
        }
        for place in places.filter(|place| !votes(place)) {
            self.change("demote", place + 1, record).await?;
        }
        self.are_settled.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn change(&self, what: &str, id: usize, record: &DeploymentRecord) -> Result<(), String> {
        let mut command = Command::new(&self.binary);
        command.args(["members", "--cluster-id", record.cluster_id.as_str()]);
        for zone in &record.zones {
            command.args(["--coordinator", &zone.coordinator]);
        }
        // One more learner means that the group survives fewer losses, as requested.
        command.args([what, &id.to_string(), "--force"]).kill_on_drop(true);
        match timeout(CHANGE_MAX, command.output()).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(said.lines().last().unwrap_or("it said nothing").to_owned())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("not done within {CHANGE_MAX:?}")),
        }
    }
}
