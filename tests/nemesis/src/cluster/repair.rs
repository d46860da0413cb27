//! What an operator does about a zone that was tampered with: looks with `chain-verify`, and has the
//! zone filled anew.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::{Build, Cluster, NAMES, ZONES};

/// Longest time that looking takes, and that a zone takes to set its chain aside.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Links before the first bad one that are looked at too.
const LINKS_BEFORE: i64 = 20;

impl Cluster {
    /// Runs `chain-verify` over all zones' newest links.
    ///
    /// # Errors
    /// Unless it says that links are wrong, in this zone and from `first` on.
    pub async fn finds(&self, zone: usize, first: i64) -> anyhow::Result<()> {
        let mut command = Command::new(self.ground.binary("chain-verify"));
        for (zone, name) in NAMES.iter().enumerate().take(ZONES) {
            command.arg("--zone").arg(format!("{name}={}", self.dsn(zone)));
        }
        command.arg("--from").arg((first - LINKS_BEFORE).max(1).to_string());
        let output = run(command, "chain-verify").await?;
        let said = String::from_utf8_lossy(&output.stdout);
        let named = said.contains(&format!("link {first} ")) && said.contains(NAMES[zone]);
        ensure!(
            output.status.code() == Some(1) && named,
            "links of {} from {first} on were rewritten, and chain-verify ({}) says: {said}",
            NAMES[zone],
            output.status
        );
        Ok(())
    }

    /// Runs `pghc zone reseed` with some more arguments. Answers what it said.
    ///
    /// # Errors
    /// When it refuses, with what it said, or takes too long.
    pub async fn reseed(&self, zone: usize, more: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.ground.pghc(Build::New));
        command.args(["zone", "reseed", "--database", &self.dsn(zone)]).args(more);
        let output = run(command, "pghc zone reseed").await?;
        let said = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pghc zone reseed: {said} {complained}");
        Ok(said)
    }
}

async fn run(mut command: Command, name: &'static str) -> anyhow::Result<Output> {
    let output = tokio::time::timeout(STEP_MAX, command.kill_on_drop(true).output()).await;
    output.with_context(|| format!("{name} takes too long"))?.context(name)
}
