//! Shows the coordinators with round trips, write rates and the last placement decision.
//!
//! `pghc leader show` prints the view; automatic placement decides by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pghc_runtime::geo::model::Commit;
use pghc_runtime::geo::topology::{Topology, TopologyNode};
use pghc_runtime::rpc::v1::{MemberList, NodeMeasurements, PlacementView};

use super::rtt_monitor::RttMonitor;

/// Most entries by which a leadership transfer target may be behind: a few WAN round trips at full
/// load.
const LAG_ENTRIES_MAX: u64 = 5_000;

/// Returns how a zone learns of a commit.
fn commit(acks: bool) -> Commit {
    if acks { Commit::AcksToAll } else { Commit::LeaderPush }
}

/// Source of the view; clones share it.
#[derive(Clone)]
pub(crate) struct TopologyView {
    rtt_monitor: RttMonitor,
    acks: bool,
    pub(crate) status_text: Arc<Mutex<String>>,
}

impl TopologyView {
    pub(crate) fn new(rtt_monitor: &RttMonitor, acks: bool) -> Self {
        Self { rtt_monitor: rtt_monitor.clone(), acks, status_text: Arc::default() }
    }

    pub(crate) fn rtt_monitor(&self) -> &RttMonitor {
        &self.rtt_monitor
    }

    /// Builds the view for a group.
    pub(crate) fn view(&self, group: MemberList) -> PlacementView {
        PlacementView {
            group: Some(group),
            measurements: self.rtt_monitor.measurements(),
            auto: self.rtt_monitor.auto_placement().auto,
            says: self.status_text.lock().clone(),
            acks: self.acks,
        }
    }
}

/// Converts a view to the survey and the commit rule of `geo`.
#[must_use]
pub fn topology(view: &PlacementView) -> (Topology, Commit) {
    let empty = MemberList::default();
    let members = &view.group.as_ref().unwrap_or(&empty).members;
    let site = |member: &pghc_runtime::rpc::v1::MemberView| TopologyNode {
        id: member.coordinator_id,
        zone: member.zone.clone(),
        voter: member.voter,
        ..TopologyNode::default()
    };
    let mut sites: Vec<TopologyNode> = members.iter().map(site).collect();
    for measurements in &view.measurements {
        for traffic in &measurements.traffic {
            record(&mut sites, measurements.coordinator_id, traffic);
        }
    }
    let measured: BTreeMap<(u64, u64), f64> = view.measurements.iter().flat_map(row).collect();
    let topology = Topology::new(sites, |a, b| measured.get(&(a, b)).copied());
    (topology, commit(view.acks))
}

fn row(measurements: &NodeMeasurements) -> impl Iterator<Item = ((u64, u64), f64)> {
    let cell = |it: &pghc_runtime::rpc::v1::Distance| {
        ((measurements.coordinator_id, it.coordinator_id), f64::from(it.round_trip_us) / 1e3)
    };
    measurements.distances.iter().map(cell)
}

/// Adds a zone's writes to the coordinator in that zone, else to the coordinator that accepted
/// them.
fn record(sites: &mut [TopologyNode], through: u64, traffic: &pghc_runtime::rpc::v1::Traffic) {
    let own = |site: &TopologyNode| site.id == through && site.zone == traffic.zone;
    let place = sites
        .iter()
        .position(own)
        .or_else(|| sites.iter().position(|site| site.zone == traffic.zone))
        .or_else(|| sites.iter().position(|site| site.id == through));
    let Some(site) = place.map(|place| &mut sites[place]) else { return };
    let rate = traffic.writes_per_1000_s as f64 / 1e3;
    let ms = |us: u32| (us > 0).then(|| f64::from(us) / 1e3);
    // The busiest route determines the latency.
    if rate >= site.writes_per_s || site.p50_ms.is_none() {
        site.p50_ms = ms(traffic.p50_us);
        site.recent_p50_ms = ms(traffic.recent_p50_us);
    }
    site.writes_per_s += rate;
}

/// Returns the coordinators that must not lead now, with the reason.
pub(crate) fn unfit(view: &PlacementView) -> BTreeMap<u64, String> {
    let group = view.group.clone().unwrap_or_default();
    let why = |member: &pghc_runtime::rpc::v1::MemberView| {
        let measurements =
            view.measurements.iter().find(|it| it.coordinator_id == member.coordinator_id);
        let lag = group.committed_next.saturating_sub(member.acknowledged_next);
        let why = match measurements {
            _ if !member.voter => "it does not vote".to_owned(),
            _ if !member.reachable => "it does not answer".to_owned(),
            None => "its measurements are stale".to_owned(),
            Some(measurements) if measurements.disk_short => "its disk is nearly full".to_owned(),
            Some(_) if lag > LAG_ENTRIES_MAX => format!("it is {lag} entries behind"),
            Some(_) => return None,
        };
        Some((member.coordinator_id, why))
    };
    group.members.iter().filter_map(why).collect()
}

#[cfg(test)]
mod tests {
    use pghc_runtime::rpc::v1::{
        Distance, MemberList, MemberView, NodeMeasurements, PlacementView, Traffic,
    };

    use super::{LAG_ENTRIES_MAX, topology, unfit};

    fn member(id: u64, zone: &str) -> MemberView {
        MemberView {
            coordinator_id: id,
            zone: zone.to_owned(),
            voter: true,
            reachable: true,
            acknowledged_next: 10_000,
            ..MemberView::default()
        }
    }

    fn traffic(zone: &str, writes_per_s: u64, p50_us: u32) -> Traffic {
        let writes_per_1000_s = writes_per_s * 1000;
        Traffic { zone: zone.to_owned(), writes_per_1000_s, p50_us, recent_p50_us: p50_us }
    }

    fn view() -> PlacementView {
        let members = vec![member(1, "us"), member(2, "eu"), member(3, "ap")];
        let group = MemberList { leader: 1, members, committed_next: 10_000, ..Default::default() };
        let to = |coordinator_id, round_trip_us| Distance {
            coordinator_id,
            round_trip_us,
            slow_us: round_trip_us,
        };
        let measurements = |coordinator_id, rtt_monitor, traffic| NodeMeasurements {
            coordinator_id,
            distances: rtt_monitor,
            traffic,
            ..NodeMeasurements::default()
        };
        let measurements = vec![
            measurements(
                1,
                vec![to(2, 70_000), to(3, 150_000)],
                vec![traffic("us", 10, 70_000), traffic("ap", 3, 90_000), traffic("mars", 2, 1)],
            ),
            measurements(2, vec![to(1, 72_000)], vec![traffic("eu", 20, 140_000)]),
        ];
        PlacementView { group: Some(group), measurements, ..PlacementView::default() }
    }

    #[test]
    fn writes_count_for_the_coordinator_of_their_zone() {
        let (topology, _) = topology(&view());
        let rates: Vec<f64> = topology.sites().iter().map(|site| site.writes_per_s).collect();
        assert_eq!(rates, [12.0, 20.0, 3.0], "mars has no coordinator of its own");
        assert_eq!(topology.sites()[1].p50_ms, Some(140.0));
        assert_eq!(topology.round_trip_ms(0, 1), Some(71.0));
        assert_eq!(topology.round_trip_ms(2, 0), Some(150.0), "one direction is enough");
        assert_eq!(topology.round_trip_ms(1, 2), None);
    }

    #[test]
    fn silent_lagging_or_full_coordinator_is_unfit() {
        let mut view = view();
        assert_eq!(unfit(&view).into_keys().collect::<Vec<_>>(), [3]);
        view.measurements.push(NodeMeasurements {
            coordinator_id: 3,
            disk_short: true,
            ..NodeMeasurements::default()
        });
        let group = view.group.as_mut().expect("there is one");
        group.members[1].acknowledged_next -= LAG_ENTRIES_MAX + 1;
        let why = unfit(&view);
        assert!(why[&3].contains("disk") && why[&2].contains("behind"), "{why:?}");
        view.group.as_mut().expect("there is one").members[0].reachable = false;
        assert!(unfit(&view)[&1].contains("not answer"));
    }
}
