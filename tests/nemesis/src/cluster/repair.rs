//! An operator's repair of a zone that was tampered with: checks it with `chain-verify`, then
//! reseeds it.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::{Build, Cluster, NAMES};
use crate::faults::until;

/// Longest time that looking takes, and that a zone takes to set its chain aside.
const STEP_MAX: Duration = Duration::from_secs(300);
/// Longest time until enough zones are there to tell which of them is wrong.
pub const FOUND_MAX: Duration = Duration::from_secs(120);
/// Links before the first bad one that are checked too.
const LINKS_BEFORE: u64 = 20;

impl Cluster {
    /// Runs `chain-verify` over the links of all zones from `from` on.
    ///
    /// # Errors
    /// When it does not run, or takes too long.
    pub async fn chain_verify(&self, from: u64) -> anyhow::Result<Output> {
        let mut command = Command::new(self.ground.binary("chain-verify"));
        for (zone, name) in NAMES.iter().enumerate() {
            command.arg("--zone").arg(format!("{name}={}", self.dsn(zone)));
        }
        command.arg("--from").arg(from.to_string());
        run(command, "chain-verify").await
    }

    /// Waits until `chain-verify` names `first` as the first bad id: that this zone breaks there, or that
    /// the zones differ there. Other zones, against which it holds this one, may be down by other faults.
    ///
    /// # Errors
    /// When it keeps reporting another conclusion, or advises against another zone.
    pub async fn finds(&self, zone: usize, first: i64) -> anyhow::Result<()> {
        let name = NAMES[zone];
        let wanted = [
            format!("trust nothing in {name} from link {first} on"),
            format!("link {first} is not the same everywhere"),
        ];
        let others = NAMES.iter().filter(|other| **other != name);
        let slanders: Vec<String> = others.map(|o| format!("trust nothing in {o} ")).collect();
        let from = u64::try_from(first)?.saturating_sub(LINKS_BEFORE).max(1);
        let mut said = String::new();
        let found = until("chain-verify names the first bad link", FOUND_MAX, async || {
            let output = self.chain_verify(from).await.ok()?;
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_said = |sentence: &String| said.contains(sentence);
            (output.status.code() == Some(1) && wanted.iter().any(is_said)).then_some(())
        });
        let found = found.await;
        found.with_context(|| format!("wanted one of {wanted:?}, it says: {said}"))?;
        let is_slandered = slanders.iter().any(|sentence| said.contains(sentence));
        ensure!(!is_slandered, "it advises against a sound zone: {said}");
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
