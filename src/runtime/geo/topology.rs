//! Measurements of a group of coordinators: round trips, and the origin of writes.

use super::model::{Commit, Distances, Model};

/// Writes a second in all zones together below which the origin of writes counts as unknown.
const RATE_MIN: f64 = 1.0;

/// One coordinator.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopologyNode {
    /// Its id.
    pub id: u64,
    /// Zone of the coordinator.
    pub zone: String,
    /// Whether it votes.
    pub voter: bool,
    /// Writes a second that enter here, over the last half minute.
    pub writes_per_s: f64,
    /// Median from handing a batch in here until it was ordered here, over the last half minute, in
    /// ms; `None` without writes.
    pub p50_ms: Option<f64>,
    /// The same over the last five seconds.
    pub recent_p50_ms: Option<f64>,
}

/// All of them, and the distances between them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topology {
    sites: Vec<TopologyNode>,
    /// Row-major, in ms; infinite where nothing was measured.
    round_trips: Vec<f64>,
}

/// Prediction for one leader.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Its place among the sites.
    pub place: usize,
    /// Its id.
    pub leader: u64,
    /// Latency in each site, in ms of the network alone; infinite for an unreachable site.
    pub sites_ms: Vec<f64>,
    /// Over the sites by their writes.
    pub mean_ms: f64,
}

impl Distances for Topology {
    fn count(&self) -> usize {
        self.sites.len()
    }
    fn one_way_ms(&self, from: usize, to: usize) -> f64 {
        self.round_trips[from * self.sites.len() + to] / 2.0
    }
}

impl Topology {
    /// A survey; `measured` returns the round trip that the first coordinator has measured to the
    /// second, in ms. The mean of both directions counts, or the known one.
    #[must_use]
    pub fn new(sites: Vec<TopologyNode>, measured: impl Fn(u64, u64) -> Option<f64>) -> Self {
        let cell =
            |a: &TopologyNode, b: &TopologyNode| match (measured(a.id, b.id), measured(b.id, a.id))
            {
                _ if a.id == b.id => 0.0,
                (Some(there), Some(back)) => (there + back) / 2.0,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => f64::INFINITY,
            };
        let cell = &cell;
        let rows = sites.iter().flat_map(|a| sites.iter().map(move |b| cell(a, b)));
        let round_trips = rows.collect();
        Self { sites, round_trips }
    }

    /// The coordinators.
    #[must_use]
    pub fn sites(&self) -> &[TopologyNode] {
        &self.sites
    }

    /// The round trip between two sites by place, in ms; `None` when it was not measured.
    #[must_use]
    pub fn round_trip_ms(&self, a: usize, b: usize) -> Option<f64> {
        let cell = self.round_trips[a * self.sites.len() + b];
        cell.is_finite().then_some(cell)
    }

    /// Writes a second in all zones.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.sites.iter().map(|site| site.writes_per_s).sum()
    }

    /// Whether the origin of writes is known: then sites weigh by their writes, else alike.
    #[must_use]
    pub fn is_weighted(&self) -> bool {
        self.rate() >= RATE_MIN
    }

    /// The formulae over these sites; `None` without voters.
    #[must_use]
    pub fn model(&self) -> Option<Model> {
        let count = self.sites.len();
        let voters: Vec<usize> = (0..count).filter(|place| self.sites[*place].voter).collect();
        if voters.is_empty() {
            return None;
        }
        let reached = |place: usize| {
            count == 1 || (0..count).any(|b| b != place && self.round_trip_ms(place, b).is_some())
        };
        let weight = |place: usize| match (reached(place), self.is_weighted()) {
            (false, _) => 0.0,
            (true, true) => self.sites[place].writes_per_s,
            (true, false) => 1.0,
        };
        let weights: Vec<f64> = (0..count).map(weight).collect();
        let is_weighed = weights.iter().sum::<f64>() > 0.0;
        let model = Model::new(self).with_voters(voters);
        Some(if is_weighed { model.with_weights(weights) } else { model })
    }

    /// Predictions for each voter as leader, the best first. Voters without a known majority in
    /// reach are left out.
    #[must_use]
    pub fn predictions(&self, commit: Commit) -> Vec<Prediction> {
        let Some(model) = self.model() else { return Vec::new() };
        let predict = |place: &usize| {
            let sites_ms = (0..self.sites.len()).map(|site| model.raft(commit, *place, site));
            let (mean_ms, _) = model.score(commit, *place);
            let (place, leader) = (*place, self.sites[*place].id);
            Prediction { place, leader, sites_ms: sites_ms.collect(), mean_ms }
        };
        let mut all: Vec<Prediction> = model.voters().iter().map(predict).collect();
        all.retain(|prediction| prediction.mean_ms.is_finite());
        all.sort_by(|a, b| a.mean_ms.total_cmp(&b.mean_ms));
        all
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::model::Commit;
    use super::{Topology, TopologyNode};

    /// Coordinators 1, 2, 3 in us, eu, ap, as far apart as on the globe, with these writes a second.
    pub(in crate::geo) fn three(rates: [f64; 3]) -> Topology {
        let site = |(place, (zone, rate)): (u64, (&str, f64))| TopologyNode {
            id: place,
            zone: zone.to_owned(),
            voter: true,
            writes_per_s: rate,
            ..TopologyNode::default()
        };
        let zones = ["us", "eu", "ap"].into_iter().zip(rates);
        Topology::new((1..).zip(zones).map(site).collect(), |a, b| match (a, b) {
            (1, 2) => Some(69.6),
            (1, 3) => Some(149.2),
            (2, 3) => Some(201.0),
            _ => None,
        })
    }

    #[test]
    fn prediction_weighs_zones_by_writes() {
        let best = |rates| three(rates).predictions(Commit::LeaderPush)[0].leader;
        assert_eq!((best([0.0; 3]), best([10.0, 80.0, 10.0]), best([1.0, 1.0, 98.0])), (1, 2, 3));
        let quiet = three([0.2, 0.0, 0.3]);
        assert!(!quiet.is_weighted());
        let us = &quiet.predictions(Commit::LeaderPush)[0];
        assert!((us.mean_ms - (69.6 + 139.2 + 218.8) / 3.0).abs() < 1e-9, "{us:?}");
    }

    #[test]
    fn silent_voter_counts_for_majority_only() {
        let mut sites = three([5.0; 3]).sites;
        sites[2].writes_per_s = 0.0;
        let known = |a, b| ((a, b) == (1, 2)).then_some(70.0);
        let topology = Topology::new(sites, known);
        let all = topology.predictions(Commit::AcksToAll);
        assert_eq!(all.iter().map(|it| it.leader).collect::<Vec<_>>(), [1, 2]);
        assert!((all[0].sites_ms[0] - 70.0).abs() < 1e-9 && all[0].sites_ms[2].is_infinite());
        let alone = Topology::new(topology.sites, |_, _| None);
        assert!(alone.predictions(Commit::AcksToAll).is_empty(), "no majority is reached");
    }
}
