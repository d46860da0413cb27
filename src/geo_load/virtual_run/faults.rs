//! Breaking things in virtual time, and mending them again.

use anyhow::{Context as _, anyhow, ensure};
use pghc_api::id::ZoneName;
use pghc_lab::run::faults::Breaker;
use pghc_lab::run::scenario::{Fault, LineChange};
use pghc_lab::run::scenario_values::{PartName, ProcessName};
use pghc_sim::Deployment;
use pghc_wan::conditions::Change;
use pghc_wan::{Cut, LineView};

/// Handles that faults act on.
pub(super) struct Tools {
    pub(super) deployment: Deployment,
    pub(super) zones: Vec<ZoneName>,
}

/// How a fault is undone.
pub(super) enum Undo {
    Nothing,
    Heal(u64),
    Start(usize, PartName),
    Continue(usize, PartName),
    Change(Vec<LineView>),
}

/// Action on a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    Stop,
    Pause,
}

impl Breaker for Tools {
    type Undo = Undo;

    async fn begin(&self, fault: &Fault, struck: &mut Vec<String>) -> anyhow::Result<Undo> {
        let link_model = self.deployment.link_model();
        if let Some(cut) = &fault.cut {
            let cut = Cut {
                from: self.names(&cut.from).await?,
                to: self.names(&cut.to).await?,
                ..cut.clone()
            };
            struck.clone_from(&cut.from);
            let number = link_model.cut(cut).map_err(anyhow::Error::msg)?;
            self.deployment.note();
            return Ok(Undo::Heal(number));
        }
        if let Some(LineChange { from, to, change }) = &fault.change {
            let before = link_model.view();
            link_model.set(from, to, change).map_err(anyhow::Error::msg)?;
            let undo = if fault.lasting.is_some() { Undo::Change(before) } else { Undo::Nothing };
            return Ok(undo);
        }
        if let Some(zone) = &fault.lead {
            self.deployment.lead(self.place(zone)?).await.map_err(anyhow::Error::msg)?;
            return Ok(Undo::Nothing);
        }
        let by = [(&fault.kill, Act::Kill), (&fault.stop, Act::Stop), (&fault.pause, Act::Pause)];
        let act = by.into_iter().find_map(|(name, by)| Some((name.as_ref()?, by)));
        let (name, by) = act.context("the fault names no action")?;
        let zone = self.resolve(&name.zone).await?;
        struck.push(zone.clone());
        self.strike(self.place(&zone)?, name, by).await
    }

    async fn undo(&self, undo: Undo) -> anyhow::Result<()> {
        let (deployment, link_model) = (&self.deployment, self.deployment.link_model());
        match undo {
            Undo::Nothing => {}
            Undo::Heal(number) => {
                link_model.heal(number);
                deployment.note();
            }
            Undo::Start(zone, PartName::Coordinator) => deployment.start_coordinator(zone),
            Undo::Start(zone, PartName::Api(node)) => deployment.start_node(zone, node),
            Undo::Start(zone, PartName::Postgres) => deployment.database(zone).start(),
            Undo::Continue(zone, part) => {
                let process = match part {
                    PartName::Api(node) => deployment.node(zone, node).map(|(process, _)| process),
                    _ => deployment.coordinator(zone),
                };
                process.context("the process has ended")?.resume();
                deployment.note();
            }
            Undo::Change(before) => {
                for line in before {
                    let change = Change::from(&line);
                    let set = link_model.set(line.from.as_str(), line.to.as_str(), &change);
                    set.map_err(anyhow::Error::msg)?;
                }
            }
        }
        Ok(())
    }
}

impl Tools {
    async fn strike(&self, zone: usize, name: &ProcessName, by: Act) -> anyhow::Result<Undo> {
        let (deployment, part) = (&self.deployment, name.part);
        let process = match part {
            PartName::Coordinator => deployment.coordinator(zone),
            PartName::Api(node) => deployment.node(zone, node).map(|(process, _)| process),
            PartName::Postgres => {
                ensure!(by != Act::Pause, "a database in memory cannot be paused");
                deployment.database(zone).crash();
                return Ok(Undo::Start(zone, part));
            }
        };
        let process = process.with_context(|| format!("{name} was not running"))?;
        match (by, part) {
            (Act::Pause, _) => {
                process.pause();
                deployment.note();
                return Ok(Undo::Continue(zone, part));
            }
            (Act::Stop, PartName::Coordinator) => deployment.stop_coordinator(zone).await,
            (_, PartName::Coordinator) => deployment.kill_coordinator(zone),
            (_, PartName::Api(node)) => deployment.kill_node(zone, node),
            (_, PartName::Postgres) => {}
        }
        Ok(Undo::Start(zone, part))
    }

    fn place(&self, zone: &str) -> anyhow::Result<usize> {
        let place = self.zones.iter().position(|name| name.as_str() == zone);
        place.ok_or_else(|| anyhow!("there is no zone {zone}"))
    }

    async fn resolve(&self, zone: &str) -> anyhow::Result<String> {
        if zone != "leader" {
            return Ok(zone.to_owned());
        }
        let leader = self.deployment.leader().await;
        let (leader, _) = leader.context("no leader is known, so its zone cannot be struck")?;
        Ok(self.zones[leader].to_string())
    }

    async fn names(&self, names: &[String]) -> anyhow::Result<Vec<String>> {
        let mut resolved = Vec::with_capacity(names.len());
        for name in names {
            resolved.push(self.resolve(name).await?);
        }
        Ok(resolved)
    }
}
