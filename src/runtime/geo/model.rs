//! How long an ordered write must take between distant zones: bounds and protocols as formulae.
//!
//! Pure. Times are in milliseconds of the network alone, from the acceptance of a write in zone z
//! to its application in zone z. Below, d(a,b) is the delay from a to b, V the voters, k their
//! majority, and M(z) the k-th smallest round trip from z to a voter (0 to itself).

/// Zones and the delays between them.
pub trait Distances {
    /// How many zones there are.
    fn count(&self) -> usize;

    /// The delay from one to another, by place, in ms; infinite when it is not known. From a zone
    /// to itself it is 0.
    fn one_way_ms(&self, from: usize, to: usize) -> f64;
}

/// Source from which a zone learns that a write is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Commit {
    /// The leader, once a majority has acknowledged to it: RTT(z,L) + M(L).
    LeaderPush,
    /// Every voter tells every zone what it holds, and zones count the majority themselves:
    /// d(z,L) + max(d(L,z), the k-th smallest d(L,q) + d(q,z) over the voters q).
    AcksToAll,
}

/// A matrix, its voters and how much each zone's writes count.
#[derive(Debug, Clone)]
pub struct Model {
    delays: Vec<f64>,
    count: usize,
    voters: Vec<usize>,
    weights: Vec<f64>,
}

impl Model {
    /// A model in which every zone votes and counts alike.
    #[must_use]
    pub fn new(distances: &impl Distances) -> Self {
        let count = distances.count();
        let cells = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let delays = cells.map(|(a, b)| distances.one_way_ms(a, b)).collect();
        Self { delays, count, voters: (0..count).collect(), weights: vec![1.0; count] }
    }

    /// The same with these voters, places in the matrix.
    ///
    /// # Panics
    /// If there are none, or one is not in the matrix.
    #[must_use]
    pub fn with_voters(mut self, voters: Vec<usize>) -> Self {
        assert!(!voters.is_empty(), "a group needs a voter");
        assert!(voters.iter().all(|voter| *voter < self.count), "a voter outside the matrix");
        self.voters = voters;
        self
    }

    /// As [`Self::with_voters`], in place.
    pub(super) fn set_voters(&mut self, voters: &[usize]) {
        self.voters.clear();
        self.voters.extend_from_slice(voters);
    }

    /// How many zones there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The same with these weights, at least 0 and not all 0, one for each zone.
    ///
    /// # Panics
    /// If they are anything else.
    #[must_use]
    pub fn with_weights(mut self, weights: Vec<f64>) -> Self {
        assert_eq!(weights.len(), self.count, "a weight for each zone");
        let sum: f64 = weights.iter().sum();
        assert!(weights.iter().all(|weight| *weight >= 0.0) && sum > 0.0, "weights {weights:?}");
        self.weights = weights;
        self
    }

    /// The voters.
    #[must_use]
    pub fn voters(&self) -> &[usize] {
        &self.voters
    }

    /// How many voters may be lost.
    #[must_use]
    pub fn survives(&self) -> usize {
        (self.voters.len() - 1) / 2
    }

    /// The delay from `a` to `b`, in ms.
    #[must_use]
    pub fn d(&self, a: usize, b: usize) -> f64 {
        self.delays[a * self.count + b]
    }

    fn rtt(&self, a: usize, b: usize) -> f64 {
        self.d(a, b) + self.d(b, a)
    }

    fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The k-th smallest over the voters.
    fn majority(&self, of: impl Fn(usize) -> f64) -> f64 {
        kth(self.voters.iter().map(|voter| of(*voter)).collect(), self.quorum())
    }

    /// No protocol is faster in `zone` while a majority shall hold the write: M(z).
    #[must_use]
    pub fn limit(&self, zone: usize) -> f64 {
        self.majority(|voter| self.rtt(zone, voter))
    }

    /// Latency of a write of `zone` under leader `leader`, with pipelined appends.
    #[must_use]
    pub fn raft(&self, commit: Commit, leader: usize, zone: usize) -> f64 {
        match commit {
            Commit::LeaderPush => {
                self.rtt(zone, leader) + self.majority(|voter| self.rtt(leader, voter))
            }
            Commit::AcksToAll => {
                let heard = self.majority(|voter| self.d(leader, voter) + self.d(voter, zone));
                self.d(zone, leader) + self.d(leader, zone).max(heard)
            }
        }
    }

    /// For comparison, Clock-RSM with synchronised clocks: a majority, a clock from every voter,
    /// and every older write of any zone.
    #[must_use]
    pub fn clock_rsm(&self, zone: usize) -> f64 {
        let clocks = self.voters.iter().map(|voter| self.d(*voter, zone));
        let older = self
            .voters
            .iter()
            .map(|voter| self.majority(|via| self.d(*voter, via) + self.d(via, zone)));
        clocks.chain(older).fold(self.limit(zone), f64::max)
    }

    /// For comparison, Mencius while all zones write.
    #[must_use]
    pub fn mencius(&self, zone: usize) -> f64 {
        let turn = |other: usize| {
            self.d(zone, other) + self.majority(|via| self.d(other, via) + self.d(via, zone))
        };
        let skips = self.voters.iter().map(|voter| self.rtt(zone, *voter));
        let turns = self.voters.iter().filter(|voter| **voter != zone).map(|voter| turn(*voter));
        skips.chain(turns).fold(0.0, f64::max)
    }

    /// The mean over the zones by their weights; a zone without weight counts for nothing, however far.
    #[must_use]
    pub fn mean(&self, of: impl Fn(usize) -> f64) -> f64 {
        let counts = (0..self.count).filter(|zone| self.weights[*zone] > 0.0);
        let sum: f64 = counts.map(|zone| of(zone) * self.weights[zone]).sum();
        sum / self.weights.iter().sum::<f64>()
    }

    /// Mean over the zones by weight and worst zone when `leader` leads, in ms.
    #[must_use]
    pub fn score(&self, commit: Commit, leader: usize) -> (f64, f64) {
        let worst = (0..self.count)
            .filter(|zone| self.weights[*zone] > 0.0)
            .map(|zone| self.raft(commit, leader, zone))
            .fold(0.0, f64::max);
        (self.mean(|zone| self.raft(commit, leader, zone)), worst)
    }

    /// The leader with the least mean; among equals the one with the least worst zone.
    #[must_use]
    pub fn best_leader(&self, commit: Commit) -> usize {
        let scored = self.voters.iter().map(|leader| (*leader, self.score(commit, *leader)));
        let best = scored.min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        best.expect("a model has a voter").0
    }
}

/// The k-th smallest, k from 1.
fn kth(mut values: Vec<f64>, k: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[k - 1]
}
