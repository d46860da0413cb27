//! The deployment of a scenario: voters and leader.

use anyhow::{bail, ensure};
use pghc_api::id::ZoneName;
use pghc_dev::deployment::Acks;

use super::scenario::{ClusterPart, Placement};

impl Default for ClusterPart {
    fn default() -> Self {
        Self {
            voters: Vec::new(),
            leader: None,
            api_nodes: 1,
            acks: Acks::default(),
            commit: None,
            placement: Placement::default(),
            visibility: true,
        }
    }
}

impl ClusterPart {
    /// The zones that vote; `None`: all. Of a scenario that was checked.
    #[must_use]
    pub fn voters(&self) -> Option<Vec<ZoneName>> {
        let voters: Vec<_> = self.voters.iter().filter_map(|zone| zone.parse().ok()).collect();
        (!voters.is_empty()).then_some(voters)
    }

    pub(super) fn check(&self, zones: &[ZoneName]) -> anyhow::Result<()> {
        let known = |name: &String| zones.iter().any(|zone| zone.as_str() == name);
        if let Some(zone) = self.voters.iter().find(|zone| !known(zone)) {
            bail!("there is no zone {zone:?} to vote");
        }
        let leader = self.leader.as_ref().filter(|_| !self.voters.is_empty());
        if let Some(leader) = leader {
            ensure!(self.voters.contains(leader), "{leader:?} is to lead and does not vote");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Scenario;

    #[test]
    fn voters_must_be_zones_of_scenario() {
        let read = |cluster: &str| {
            let text = "name = 'x'\nduration = '1s'\n[matrix]\nfile = 'aws3'\n[[clients]]\n\
                        zone = '*'\nrate = 10\n[cluster]\n";
            Scenario::parse(&format!("{text}{cluster}"), &[])
        };
        let voters = |cluster: &str| read(cluster).expect("good").cluster.voters();
        assert_eq!(voters(""), None);
        let two = voters("voters = ['us-east-1', 'eu-west-1']\nleader = 'us-east-1'");
        assert_eq!(two.map(|two| two.len()), Some(2));
        for wrong in ["voters = ['mars']", "voters = ['us-east-1']\nleader = 'eu-west-1'"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
