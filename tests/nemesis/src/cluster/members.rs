//! The members of the group, as an operator sees and changes them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use pghc_runtime::rpc;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::{ListMembersRequest, MemberList};
use tokio::process::Command;

use super::{Build, Cluster, ZONES};

/// Longest time until a list of members is answered.
const LIST_MAX: Duration = Duration::from_secs(3);
/// Longest time until a change of them is made or refused.
const CHANGE_MAX: Duration = Duration::from_secs(90);

impl Cluster {
    /// The coordinators as the group itself lists them.
    ///
    /// # Errors
    /// When no coordinator answers.
    pub async fn members(&self) -> anyhow::Result<MemberList> {
        let cluster = self.id.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        let mut last = None;
        for zone in 0..ZONES {
            let url = format!("http://{}", self.ground.coordinator(zone));
            let Ok(caller) = rpc::connect(&url, &cluster, LIST_MAX) else { continue };
            let asked = tokio::time::timeout(LIST_MAX, async {
                MembersClient::new(caller).list(ListMembersRequest {}).await
            });
            match asked.await {
                Ok(Ok(list)) => return Ok(list.into_inner()),
                Ok(Err(status)) => last = Some(status.to_string()),
                Err(_) => last = Some("no answer".to_owned()),
            }
        }
        anyhow::bail!("nobody lists the members: {last:?}")
    }

    /// Runs `pghc members` as an operator does.
    ///
    /// # Errors
    /// When it refuses, with what it said, or takes too long.
    pub async fn change_members(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.ground.pghc(Build::New));
        command.args(["members", "--cluster-id", &self.id]);
        for zone in 0..ZONES {
            command.arg("--coordinator").arg(format!("http://{}", self.ground.coordinator(zone)));
        }
        command.args(arguments).kill_on_drop(true);
        let output = tokio::time::timeout(CHANGE_MAX, command.output()).await;
        let asked = || format!("pghc members {}", arguments.join(" "));
        let output = output.with_context(asked)?.context("run pghc members")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said} {complained}", asked());
        Ok(said)
    }
}
