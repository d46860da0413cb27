//! Breaking things on schedule, and mending them again.
//!
//! A run that is interrupted stops its own deployment; a cut in another's stays there until
//! `geo-load net heal`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use pghc_api::wire::Status;
use pghc_dev::deployment::Deployment;
use pghc_dev::record::DeploymentRecord;
use pghc_wan::conditions::Change;
use pghc_wan::{Cut, LineView};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::scenario::{Fault, LineChange};
use super::scenario_values::ProcessName;
use super::watch::{now, seconds_from};
use crate::chain_check::sibling;
use crate::net::Remote;
use crate::site::Site;
use crate::target::Target;

/// Longest time that a move of leadership may take.
const LEAD_MAX: Duration = Duration::from_secs(60);

/// Result of a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// In words.
    pub what: String,
    /// Zones that are cut off or have lost a process by it.
    pub zones: Vec<String>,
    /// Seconds after the end of the warm-up at which it was done.
    pub from_s: f64,
    /// And undone.
    pub to_s: f64,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Longest time without any acknowledged write after it, in zones that it did not strike.
    #[serde(default)]
    pub unavailable_s: f64,
}

impl Event {
    /// Of a fault, `now` seconds after the end of the warm-up.
    fn new(fault: &Fault, now: f64) -> Self {
        let what = fault.sentence();
        Self { what, zones: Vec::new(), from_s: now, to_s: now, error: None, unavailable_s: 0.0 }
    }

    /// The same, which was not done because the run was over before.
    fn missed(mut self) -> Self {
        self.error = Some("everything had been sent before its time".to_owned());
        self
    }

    /// Adds the struck zone to the name, once the leader is known.
    fn name_leader(&mut self) {
        if let Some(zone) = self.zones.first() {
            self.what = self.what.replace("leader", zone);
        }
    }
}

/// Does faults to a deployment, and undoes them.
pub trait Breaker {
    /// How a fault is undone.
    type Undo;

    /// Does a fault now; adds the zones that it strikes to `zones`.
    fn begin(
        &self,
        fault: &Fault,
        zones: &mut Vec<String>,
    ) -> impl Future<Output = anyhow::Result<Self::Undo>>;

    /// Undoes a fault.
    fn undo(&self, undo: Self::Undo) -> impl Future<Output = anyhow::Result<()>>;
}

/// Does one fault at its time, and undoes it. `zero` is the end of the warm-up.
pub async fn run(
    breaker: &impl Breaker,
    fault: &Fault,
    zero: Instant,
    done: &CancellationToken,
) -> Event {
    let on_time = tokio::select! {
        biased;
        () = done.cancelled() => false,
        () = sleep_until((zero + fault.at.0).into()) => true,
    };
    let mut event = Event::new(fault, seconds_from(zero, now()));
    if !on_time {
        return event.missed();
    }
    match breaker.begin(fault, &mut event.zones).await {
        Ok(undo) => {
            event.name_leader();
            let end = zero + fault.at.0 + fault.lasting.unwrap_or_default().0;
            tokio::select! {
                biased;
                () = done.cancelled() => {}
                () = sleep_until(end.into()) => {}
            }
            event.error = breaker.undo(undo).await.err().map(|error| format!("{error:#}"));
        }
        Err(error) => event.error = Some(format!("{error:#}")),
    }
    event.to_s = seconds_from(zero, now());
    event
}

/// Handles that faults on real processes act on.
#[derive(Debug)]
pub(super) struct Tools<'a> {
    site: &'a Site,
    remote: Option<Remote>,
    leader: &'a parking_lot::Mutex<Option<String>>,
}

/// How a fault is undone.
#[derive(Debug)]
pub(super) enum Undo {
    Nothing,
    Heal(u64),
    Resume(String, ProcessName),
    Continue(String, ProcessName),
    Change(Vec<LineView>),
}

impl<'a> Tools<'a> {
    /// Tools for the site.
    ///
    /// # Errors
    /// When the site cannot do what a fault asks for.
    pub(super) fn new(
        site: &'a Site,
        faults: &[Fault],
        leader: &'a parking_lot::Mutex<Option<String>>,
    ) -> anyhow::Result<Self> {
        let of_net = |fault: &Fault| fault.cut.is_some() || fault.change.is_some();
        let of_process =
            |fault: &Fault| fault.kill.is_some() || fault.stop.is_some() || fault.pause.is_some();
        let remote = site.net();
        ensure!(
            remote.is_some() || !faults.iter().any(of_net),
            "this deployment has no distances that could be cut or changed"
        );
        ensure!(
            site.deployment().is_some() || !faults.iter().any(of_process),
            "only processes of a deployment that was started for the run are killed; leave --against \
             and --target away"
        );
        ensure!(
            site.record().is_some() || faults.iter().all(|fault| fault.lead.is_none()),
            "cannot transfer leadership in a deployment known by its API nodes only"
        );
        Ok(Self { site, remote, leader })
    }

    fn net(&self) -> anyhow::Result<&Remote> {
        self.remote.as_ref().context("this deployment has no distances")
    }

    fn deployment(&self) -> anyhow::Result<&Deployment> {
        self.site.deployment().context("this deployment was not started for the run")
    }

    fn zone(&self, name: &str) -> anyhow::Result<String> {
        if name != "leader" {
            return Ok(name.to_owned());
        }
        self.leader.lock().clone().context("no leader is known, so its zone cannot be struck")
    }

    fn resolve(&self, cut: &Cut) -> anyhow::Result<Cut> {
        let names = |names: &[String]| names.iter().map(|name| self.zone(name)).collect();
        let (from, to): (anyhow::Result<_>, anyhow::Result<_>) = (names(&cut.from), names(&cut.to));
        Ok(Cut { from: from?, to: to?, ..cut.clone() })
    }
}

impl Breaker for Tools<'_> {
    type Undo = Undo;

    async fn begin(&self, fault: &Fault, zones: &mut Vec<String>) -> anyhow::Result<Undo> {
        if let Some(cut) = &fault.cut {
            let cut = self.resolve(cut)?;
            zones.clone_from(&cut.from);
            return Ok(Undo::Heal(self.net()?.cut(&cut).await?));
        }
        if let Some(LineChange { from, to, change }) = &fault.change {
            let before = self.net()?.show().await?.links;
            self.net()?.set(from, to, change).await?;
            let undo = if fault.lasting.is_some() { Undo::Change(before) } else { Undo::Nothing };
            return Ok(undo);
        }
        if let Some(zone) = &fault.lead {
            lead(self.site, zone).await?;
            return Ok(Undo::Nothing);
        }
        let by = [
            (&fault.kill, Signal::SIGKILL),
            (&fault.stop, Signal::SIGTERM),
            (&fault.pause, Signal::SIGSTOP),
        ];
        let act = by.into_iter().find_map(|(name, by)| Some((name.as_ref()?, by)));
        let (name, by) = act.context("the fault names no action")?;
        let zone = self.zone(&name.zone)?;
        zones.push(zone.clone());
        let deployment = self.deployment()?;
        if by != Signal::SIGSTOP {
            deployment.pause_supervision(&zone, name.part.into()).await?;
        }
        let hit = deployment.kill(&zone, name.part.into(), by).await?;
        ensure!(hit.is_some(), "{name} was not running");
        Ok(match by {
            Signal::SIGSTOP => Undo::Continue(zone, name.clone()),
            _ => Undo::Resume(zone, name.clone()),
        })
    }

    async fn undo(&self, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Nothing => {}
            Undo::Heal(number) => drop(self.net()?.heal(Some(number)).await?),
            Undo::Resume(zone, name) => {
                self.deployment()?.resume_supervision(&zone, name.part.into()).await?;
            }
            Undo::Continue(zone, name) => {
                self.deployment()?.kill(&zone, name.part.into(), Signal::SIGCONT).await?;
            }
            Undo::Change(before) => {
                for line in before {
                    let change = Change::from(&line);
                    self.net()?.set(line.from.as_str(), line.to.as_str(), &change).await?;
                }
            }
        }
        Ok(())
    }
}

/// Moves leadership to the coordinator of `zone` and waits until it leads.
///
/// # Errors
/// When it is not done in time.
pub async fn lead(site: &Site, zone: &str) -> anyhow::Result<()> {
    let record = site.record().context("the coordinators of this deployment are not known")?;
    let target = site.target();
    let deadline = Instant::now() + LEAD_MAX;
    loop {
        let status = target.status().await?;
        if status.leader_zone.as_deref() == Some(zone) && everyone_agrees(target, &status).await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("leadership was not transferred to {zone} within {LEAD_MAX:?}");
        }
        // A group that has just been founded may not know its members yet.
        let voter = status.coordinators.iter().find(|member| member.zone == zone && member.voter);
        if status.leader_zone.as_deref() != Some(zone)
            && let Some(voter) = voter
        {
            let id = voter.coordinator_id.to_string();
            let mut command = to_coordinators(&record, "members", &["lead", &id])?;
            // Refused while there is an election; then it is tried again.
            let _ = tokio::time::timeout(LEAD_MAX, command.output()).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Enables automatic placement, in a deployment that was started for the run.
///
/// # Errors
/// When it is refused.
pub async fn place_by_itself(site: &Site) -> anyhow::Result<()> {
    let record = site.deployment().map(Deployment::record).context(
        "cluster.placement is set only in a deployment that is started for the run; switch this one with \
         `pghc leader auto`",
    )?;
    let mut command = to_coordinators(&record, "leader", &["auto", "on"])?;
    let said = tokio::time::timeout(LEAD_MAX, command.output()).await.context("no answer")??;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "cannot enable automatic placement: {}", error.trim());
    Ok(())
}

/// A command of `pghc` to the coordinators of a deployment.
fn to_coordinators(
    record: &DeploymentRecord,
    command: &str,
    arguments: &[&str],
) -> anyhow::Result<Command> {
    let mut process = Command::new(sibling("pghc")?);
    process.args([command, "--cluster-id", record.cluster_id.as_str()]);
    for zone in &record.zones {
        process.args(["--coordinator", &zone.coordinator]);
    }
    process.args(arguments).kill_on_drop(true);
    Ok(process)
}

/// Whether every zone knows of this leader.
async fn everyone_agrees(target: &Target, wanted: &Status) -> bool {
    for zone in &target.zones {
        let body = zone.nodes[0].fetch("/v1/status").await;
        let status = body.ok().and_then(|body| serde_json::from_slice::<Status>(&body).ok());
        if status.is_none_or(|status| (status.leader, status.term) != (wanted.leader, wanted.term))
        {
            return false;
        }
    }
    true
}
