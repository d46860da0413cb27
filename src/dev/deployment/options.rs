//! Options of a deployment, checked before any file or process is touched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use pghc_api::id::ZoneName;
use pghc_wan::Matrix;
use serde::{Deserialize, Serialize};

use super::Error;

/// Most zones of a deployment; each is a PostgreSQL server on this machine.
pub const ZONES_MAX: usize = 9;
/// Most API nodes in one zone.
pub const API_NODES_MAX: usize = 8;

/// Timeouts of the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Zones within a millisecond or so.
    Lan,
    /// Zones up to some hundred milliseconds apart.
    Wan,
}

impl Profile {
    /// As on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

/// How coordinators know that writes are committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Acks {
    /// Everyone tells everyone.
    #[default]
    AllToAll,
    /// The leader tells.
    Leader,
}

impl Acks {
    /// As on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllToAll => "all-to-all",
            Self::Leader => "leader",
        }
    }
}

/// Options of a deployment.
#[derive(Debug, Clone)]
pub struct DeploymentOptions {
    /// Names of its zones, 1 to [`ZONES_MAX`]; one coordinator in each.
    pub zones: Vec<ZoneName>,
    /// Zones whose coordinators vote; the others follow as learners. `None`: as it is, all at first.
    pub voters: Option<Vec<ZoneName>>,
    /// Data directory, kept afterwards; `None`: a temporary one, removed afterwards.
    pub data: Option<PathBuf>,
    /// First of the ports, which then follow each other; `None`: those of the last run, or any.
    pub base_port: Option<u16>,
    /// API nodes in each zone, 1 to [`API_NODES_MAX`].
    pub api_nodes: usize,
    /// The program `pghc`; `None`: this program if it is that, else the one beside it.
    pub binary: Option<PathBuf>,
    /// Timeouts of the Raft group.
    pub profile: Profile,
    /// How its coordinators know that writes are committed.
    pub acks: Acks,
    /// Distances between the zones; it must name all of them. `None`: none.
    pub wan: Option<Matrix>,
    /// Throws the dice of jitter and losses between the zones.
    pub wan_seed: u64,
    /// Settings of every PostgreSQL server, name and value, over our own.
    pub settings: Vec<(String, String)>,
}

impl Default for DeploymentOptions {
    /// Three zones with an API node each, in a temporary directory, without distances.
    fn default() -> Self {
        Self {
            zones: default_zones(3),
            voters: None,
            data: None,
            base_port: None,
            api_nodes: 1,
            binary: None,
            profile: Profile::Lan,
            acks: Acks::default(),
            wan: None,
            wan_seed: 0,
            settings: Vec::new(),
        }
    }
}

/// Names of zones that have none: eu, us, ap, zone4, zone5, …
#[must_use]
pub fn default_zones(count: usize) -> Vec<ZoneName> {
    let name = |number: usize| match number {
        1 => "eu".to_owned(),
        2 => "us".to_owned(),
        3 => "ap".to_owned(),
        other => format!("zone{other}"),
    };
    (1..=count).map(|number| name(number).parse().expect("these are zone names")).collect()
}

impl DeploymentOptions {
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::BadOptions(text));
        let count = self.zones.len();
        if !(1..=ZONES_MAX).contains(&count) {
            return refuse(format!("{count} zones were asked for; 1 to {ZONES_MAX} are possible"));
        }
        if self.zones.iter().collect::<BTreeSet<_>>().len() != count {
            return refuse("two zones have the same name".to_owned());
        }
        let voters = self.voters.as_deref();
        if let Some(zone) = voters.unwrap_or_default().iter().find(|it| !self.zones.contains(it)) {
            return refuse(format!("zone {zone} is to vote and is not among the zones"));
        }
        if voters.is_some_and(<[ZoneName]>::is_empty) {
            return refuse("a group needs a voter".to_owned());
        }
        let nodes = self.api_nodes;
        if !(1..=API_NODES_MAX).contains(&nodes) {
            let text = format!("{nodes} API nodes in a zone were asked for");
            return refuse(format!("{text}; 1 to {API_NODES_MAX} are possible"));
        }
        let last = count * (2 + nodes);
        if self.base_port.is_some_and(|base| base < 1024 || usize::from(base) + last > 65_536) {
            return refuse(format!("{last} ports from the base port on must lie in 1024 to 65535"));
        }
        let missing =
            |matrix: &Matrix| self.zones.iter().find(|zone| !matrix.contains(zone)).cloned();
        if let Some(zone) = self.wan.as_ref().and_then(missing) {
            return refuse(format!("zone {zone} is not in the latency matrix"));
        }
        Ok(())
    }

    /// The largest round trip between the zones, in ms rounded up; `None` without distances.
    pub(super) fn round_trip_ms(&self) -> Option<u64> {
        let matrix = self.wan.as_ref()?;
        let pairs = self.zones.iter().flat_map(|a| self.zones.iter().map(move |b| (a, b)));
        // The emulator delays each direction by half of the cell.
        let both = pairs.map(|(a, b)| matrix.one_way(a, b) + matrix.one_way(b, a));
        let largest_us = both.max()?.as_micros();
        Some(u64::try_from(largest_us.div_ceil(1_000)).unwrap_or(u64::MAX).clamp(1, 3_000))
    }

    /// The program to run.
    pub(super) fn find_binary(&self) -> Result<PathBuf, Error> {
        let path = match &self.binary {
            Some(path) => path.clone(),
            None => {
                let own = std::env::current_exe().map_err(Error::io("find", "this program"))?;
                let beside = own.with_file_name("pghc");
                // Programs of cargo's tests and examples lie one directory deeper.
                let above = own.parent().and_then(Path::parent).map(|dir| dir.join("pghc"));
                above.filter(|path| !beside.is_file() && path.is_file()).unwrap_or(beside)
            }
        };
        if path.is_file() { Ok(path) } else { Err(Error::NoBinary { path }) }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeploymentOptions, default_zones};

    #[test]
    fn invalid_options_are_refused_before_start() {
        let check = |change: fn(&mut DeploymentOptions)| {
            let mut options = DeploymentOptions::default();
            change(&mut options);
            options.check().is_ok()
        };
        assert!(check(|_| ()));
        assert!(check(|options| options.zones = default_zones(9)));
        assert!(!check(|options| options.zones = default_zones(10)));
        assert!(!check(|options| options.zones.clear()));
        assert!(!check(|options| options.zones[1] = options.zones[0].clone()));
        assert!(check(|options| options.voters = Some(default_zones(2))));
        assert!(!check(|options| options.voters = Some(default_zones(4))));
        assert!(!check(|options| options.voters = Some(Vec::new())));
        assert!(!check(|options| options.api_nodes = 0));
        assert!(!check(|options| options.base_port = Some(80)));
        assert!(!check(|options| options.base_port = Some(65_530)));
        assert!(!check(
            |options| options.wan = Some("zone,eu,us\neu,0,1\nus,1,0\n".parse().unwrap())
        ));
    }
}
