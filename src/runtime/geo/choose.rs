//! Chooses the voting zones: tries every set of the wanted size where feasible, else searches from
//! every zone by changing one voter at a time. Pure and deterministic.

use super::model::{Commit, Model};

/// Most sets that are all compared; above, the search goes step by step and may miss the best.
pub const SETS_MAX: usize = 300_000;

/// Voters, their best leader, and the predicted write latency.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Places of the zones that vote, ascending.
    pub voters: Vec<usize>,
    /// Place of the best leader.
    pub leader: usize,
    /// Over the zones by weight, in ms.
    pub mean_ms: f64,
    /// In the worst zone that has weight, in ms.
    pub worst_ms: f64,
}

impl Choice {
    /// How many zones may be lost.
    #[must_use]
    pub fn survives(&self) -> usize {
        (self.voters.len() - 1) / 2
    }
}

/// The `keep` best sets of `count` voters, best first, each under its best leader; and whether the
/// search was exhaustive.
///
/// # Errors
/// A sentence, when the cluster has fewer zones.
pub fn voters(
    model: &Model,
    commit: Commit,
    count: usize,
    keep: usize,
) -> Result<(Vec<Choice>, bool), String> {
    if count == 0 || count > model.count() {
        return Err(format!("{count} voters cannot be chosen among {} zones", model.count()));
    }
    let mut search = Search { model: model.clone(), commit, keep, best: Vec::new() };
    let is_whole = sets(model.count(), count).is_some_and(|sets| sets <= SETS_MAX);
    if is_whole {
        let mut set: Vec<usize> = (0..count).collect();
        loop {
            search.look(&set);
            if !advance(&mut set, model.count()) {
                break;
            }
        }
    } else {
        (0..model.count()).for_each(|first| search.climb(first, count));
    }
    Ok((search.best, is_whole))
}

impl Model {
    /// The `count` voters with the least mean under their best leader.
    ///
    /// # Errors
    /// A sentence, when the cluster has fewer zones.
    pub fn best_voters(&self, commit: Commit, count: usize) -> Result<Vec<usize>, String> {
        let (mut best, _) = voters(self, commit, count, 1)?;
        Ok(best.swap_remove(0).voters)
    }
}

struct Search {
    model: Model,
    commit: Commit,
    keep: usize,
    best: Vec<Choice>,
}

impl Search {
    fn score(&mut self, set: &[usize]) -> Choice {
        self.model.set_voters(set);
        let leader = self.model.best_leader(self.commit);
        let (mean_ms, worst_ms) = self.model.score(self.commit, leader);
        Choice { voters: set.to_vec(), leader, mean_ms, worst_ms }
    }

    /// Scores a set and keeps it when it is among the best; of equals the first stays before.
    fn look(&mut self, set: &[usize]) -> f64 {
        let choice = self.score(set);
        let mean_ms = choice.mean_ms;
        let place = self.best.partition_point(|known| known.mean_ms <= mean_ms + 1e-9);
        if place < self.keep && !self.best.contains(&choice) {
            self.best.insert(place, choice);
            self.best.truncate(self.keep);
        }
        mean_ms
    }

    /// From one zone: takes the best further voter until there are enough, then exchanges one voter
    /// for one other zone while that helps.
    fn climb(&mut self, first: usize, count: usize) {
        let mut set = vec![first];
        while set.len() < count {
            let grown = (0..self.model.count()).filter(|zone| !set.contains(zone)).map(|zone| {
                let mut grown = set.clone();
                grown.push(zone);
                grown.sort_unstable();
                grown
            });
            let grown: Vec<Vec<usize>> = grown.collect();
            let scored = grown.into_iter().map(|set| (self.score(&set).mean_ms, set));
            let best = scored.min_by(|(a, _), (b, _)| a.total_cmp(b));
            set = best.expect("there are more zones than voters").1;
        }
        let mut mean_ms = self.look(&set);
        loop {
            let mut better = None;
            for place in 0..count {
                for zone in (0..self.model.count()).filter(|zone| !set.contains(zone)) {
                    let mut other = set.clone();
                    other[place] = zone;
                    other.sort_unstable();
                    let other_ms = self.look(&other);
                    if other_ms < better.as_ref().map_or(mean_ms, |(least, _)| *least) - 1e-9 {
                        better = Some((other_ms, other));
                    }
                }
            }
            let Some((less_ms, other)) = better else { return };
            (mean_ms, set) = (less_ms, other);
        }
    }
}

/// n over k; `None` when it is larger than a number can be.
fn sets(n: usize, k: usize) -> Option<usize> {
    (0..k).try_fold(1_usize, |product, i| Some(product.checked_mul(n - i)? / (i + 1)))
}

/// The next set of ascending places below `count`, in lexical order.
fn advance(set: &mut [usize], count: usize) -> bool {
    let size = set.len();
    let Some(place) = (0..size).rev().find(|place| set[*place] < count - size + place) else {
        return false;
    };
    set[place] += 1;
    for later in place + 1..size {
        set[later] = set[later - 1] + 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::model::{Commit, Distances, Model};
    use super::{Search, advance, sets, voters};

    /// Zones on a line, one ms each way from one to the next.
    struct Line(usize);

    impl Distances for Line {
        fn count(&self) -> usize {
            self.0
        }
        fn one_way_ms(&self, from: usize, to: usize) -> f64 {
            from.abs_diff(to) as f64
        }
    }

    #[test]
    fn voter_sets_are_ranked_once_each_best_first() {
        let mut set = vec![0, 1, 2];
        let mut seen = 1;
        while advance(&mut set, 9) {
            seen += 1;
        }
        assert_eq!((Some(seen), sets(32, 5)), (sets(9, 3), Some(201_376)));
        let model = Model::new(&Line(7));
        let (best, is_whole) = voters(&model, Commit::AcksToAll, 3, 4).expect("few zones");
        assert!(is_whole && best.len() == 4);
        assert_eq!((best[0].voters.as_slice(), best[0].leader), ([2, 3, 4].as_slice(), 3));
        assert!(best.is_sorted_by(|a, b| a.mean_ms <= b.mean_ms + 1e-9), "{best:?}");
        assert_eq!(best[0].survives(), 1);
        assert!(voters(&model, Commit::AcksToAll, 8, 1).is_err());
    }

    #[test]
    fn a_search_in_steps_finds_the_best_where_all_can_be_compared() {
        for (zones, count) in [(7, 3), (9, 5), (11, 3)] {
            let model = Model::new(&Line(zones));
            for commit in [Commit::LeaderPush, Commit::AcksToAll] {
                let (best, _) = voters(&model, commit, count, 1).expect("few zones");
                let mut search = Search { model: model.clone(), commit, keep: 1, best: Vec::new() };
                (0..zones).for_each(|first| search.climb(first, count));
                let (whole, steps) = (best[0].mean_ms, search.best[0].mean_ms);
                assert!((whole - steps).abs() < 1e-9, "{zones} {count}: {whole} {steps}");
            }
        }
    }
}
