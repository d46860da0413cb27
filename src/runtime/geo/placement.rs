//! Policy of automatic leader placement. Pure: the input is one survey for each window, the output
//! a decision with its reason.
//!
//! A move costs a pause of some round trips, and a wrong one costs the way back too. So it is made only for a
//! gain that is large, that lasted, and some time after the last change of the leader.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::model::Commit;
use super::topology::Topology;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(30);

/// Windows in a row in which the gain must be there.
const WINDOWS: u32 = 3;

/// Windows without a transfer after any change of the leader.
const COOL_DOWN: u32 = 4;

/// Least gain, in ms of the mean, and as a share of it.
const GAIN_MS_MIN: f64 = 5.0;
const GAIN_SHARE_MIN: f64 = 0.10;

/// Measurements of the leader at the end of a window.
#[derive(Debug)]
pub struct PlacementInput<'a> {
    /// Distances and writes.
    pub topology: &'a Topology,
    /// Source from which a zone learns that a write is committed.
    pub commit: Commit,
    /// The leader's id.
    pub leader: u64,
    /// Members that must not lead now, with the reason.
    pub unfit: &'a BTreeMap<u64, String>,
    /// Why no move is made at all now.
    pub hold: Option<&'a str>,
}

/// Decision, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementDecision {
    /// Nothing.
    Stay(String),
    /// Have this coordinator lead.
    Move {
        /// Its id.
        to: u64,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for PlacementDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay(why) => write!(f, "stays: {why}"),
            Self::Move { reason, .. } => write!(f, "moves: {reason}"),
        }
    }
}

/// Watches the windows of one leader; a new leader begins with a new judge.
#[derive(Debug, Clone, Default)]
pub struct LeaderPlacementPolicy {
    windows: u32,
    /// Windows in a row in which each coordinator would have been enough better.
    better: BTreeMap<u64, u32>,
}

impl LeaderPlacementPolicy {
    /// Takes in one window and says what to do.
    pub fn judge(&mut self, window: &PlacementInput<'_>) -> PlacementDecision {
        self.windows = self.windows.saturating_add(1);
        let stay = |why: String| PlacementDecision::Stay(why);
        if let Some(why) = window.hold {
            self.better.clear();
            return stay(why.to_owned());
        }
        if !window.topology.is_weighted() {
            self.better.clear();
            return stay("there are too few writes to judge by".to_owned());
        }
        let all = window.topology.predictions(window.commit);
        let Some(now) = all.iter().find(|it| it.leader == window.leader) else {
            self.better.clear();
            return stay("not enough round trips are measured".to_owned());
        };
        let gain = |mean_ms: f64| now.mean_ms - mean_ms;
        let fit = all.iter().filter(|it| {
            let enough = gain(it.mean_ms) > GAIN_MS_MIN.max(now.mean_ms * GAIN_SHARE_MIN);
            it.leader != window.leader && enough && !window.unfit.contains_key(&it.leader)
        });
        // Best first, as the predictions are.
        let fit: Vec<_> = fit.collect();
        let before = std::mem::take(&mut self.better);
        for it in &fit {
            let windows = before.get(&it.leader).copied().unwrap_or_default() + 1;
            self.better.insert(it.leader, windows);
        }
        let lasting = |id: u64| self.better.get(&id).is_some_and(|windows| *windows >= WINDOWS);
        let Some(best) = fit.iter().find(|it| lasting(it.leader)).or(fit.first()) else {
            return stay(self.nothing_better(window, &all, now.mean_ms));
        };
        let zone = &window.topology.sites()[best.place].zone;
        let reason = format!(
            "coordinator {} in {zone} would make the predicted mean {:.1} ms instead of {:.1} ms",
            best.leader, best.mean_ms, now.mean_ms
        );
        let windows = self.better[&best.leader];
        if windows < WINDOWS {
            return stay(format!("{reason}, for {windows} of {WINDOWS} windows so far"));
        }
        if self.windows <= COOL_DOWN {
            return stay(format!("{reason}, but the leader changed a short time ago"));
        }
        PlacementDecision::Move {
            to: best.leader,
            reason: format!("{reason}, for {windows} windows"),
        }
    }

    fn nothing_better(
        &self,
        window: &PlacementInput<'_>,
        all: &[super::topology::Prediction],
        now_ms: f64,
    ) -> String {
        let best = all.first().filter(|best| best.leader != window.leader);
        let Some(best) = best else {
            return format!("no other is better than the predicted mean of {now_ms:.1} ms");
        };
        match window.unfit.get(&best.leader) {
            Some(why) => format!("coordinator {} would be better but {why}", best.leader),
            None => format!(
                "coordinator {} would gain {:.1} ms of {now_ms:.1} ms, which is not enough",
                best.leader,
                now_ms - best.mean_ms
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::model::Commit;
    use super::super::topology::tests::three;
    use super::super::topology::{Topology, TopologyNode};
    use super::{COOL_DOWN, LeaderPlacementPolicy, PlacementDecision, PlacementInput, WINDOWS};

    /// Decisions over windows with these writes a second; the leader is 1 until it moves, and each
    /// new leader has a new policy state.
    fn run(rates: impl IntoIterator<Item = [f64; 3]>) -> Vec<(usize, u64)> {
        let (mut judge, mut leader, mut moves) = (LeaderPlacementPolicy::default(), 1, Vec::new());
        let unfit = BTreeMap::new();
        for (place, rates) in rates.into_iter().enumerate() {
            let topology = three(rates);
            let commit = Commit::LeaderPush;
            let window =
                PlacementInput { topology: &topology, commit, leader, unfit: &unfit, hold: None };
            if let PlacementDecision::Move { to, .. } = judge.judge(&window) {
                moves.push((place, to));
                (judge, leader) = (LeaderPlacementPolicy::default(), to);
            }
        }
        moves
    }

    const ALIKE: [f64; 3] = [10.0; 3];
    const EU: [f64; 3] = [10.0, 80.0, 10.0];

    #[test]
    fn leadership_follows_lasting_writes_after_cooldown() {
        assert_eq!(run([EU; 20]), [(COOL_DOWN as usize, 2)]);
        let later = [ALIKE; 10].into_iter().chain([EU; 10]);
        assert_eq!(run(later), [(10 + WINDOWS as usize - 1, 2)]);
        assert_eq!(run([ALIKE; 100]), []);
        assert_eq!(run([[0.1; 3]; 100]), [], "without writes nothing moves");
    }

    #[test]
    fn writes_that_swing_faster_than_three_windows_move_nothing() {
        for period in 1..WINDOWS as usize {
            let swing = (0..200).map(|window| if window / period % 2 == 0 { EU } else { ALIKE });
            assert_eq!(run(swing), [], "{period}");
        }
        // Slow swings are followed, never faster than the cool-down.
        let swing =
            (0..400).map(|window| if window / 20 % 2 == 0 { EU } else { [80.0, 10.0, 10.0] });
        let moves = run(swing);
        assert_eq!(moves.len(), 20, "{moves:?}");
        let apart = moves.windows(2).all(|pair| pair[1].0 - pair[0].0 > COOL_DOWN as usize);
        assert!(apart, "{moves:?}");
    }

    /// Near the point where two leaders are equally good, no sequence of writes causes a move: a
    /// move there gains less than the required minimum.
    #[test]
    fn leadership_stays_for_small_gains() {
        let wobble = (0..300).map(|window| {
            let part = f64::from(window % 7);
            [50.0 + part, 56.0 - part, 1.0]
        });
        let moves = run(wobble);
        assert!(moves.len() <= 1, "{moves:?}");
        let site = |id: u64, writes_per_s| TopologyNode {
            id,
            zone: format!("z{id}"),
            voter: true,
            writes_per_s,
            ..TopologyNode::default()
        };
        let sites = vec![site(1, 1.0), site(2, 1000.0), site(3, 1.0)];
        let near = Topology::new(sites, |_, _| Some(4.0));
        let (mut judge, unfit) = (LeaderPlacementPolicy::default(), BTreeMap::new());
        for _ in 0..50 {
            let commit = Commit::LeaderPush;
            let window =
                PlacementInput { topology: &near, commit, leader: 1, unfit: &unfit, hold: None };
            let verdict = judge.judge(&window);
            assert!(matches!(&verdict, PlacementDecision::Stay(why) if why.contains("not enough")));
        }
    }

    #[test]
    fn unfit_member_is_never_chosen_as_leader() {
        let topology = three(EU);
        let judge = |unfit: &[(u64, &str)], hold: Option<&str>| {
            let unfit = unfit.iter().map(|(id, why)| (*id, (*why).to_owned())).collect();
            let mut judge = LeaderPlacementPolicy::default();
            let commit = Commit::LeaderPush;
            let window =
                PlacementInput { topology: &topology, commit, leader: 3, unfit: &unfit, hold };
            (0..10).map(|_| judge.judge(&window)).last().expect("ten windows")
        };
        let to = |verdict: &PlacementDecision| match verdict {
            PlacementDecision::Move { to, .. } => Some(*to),
            PlacementDecision::Stay(_) => None,
        };
        assert_eq!(to(&judge(&[], None)), Some(2));
        assert_eq!(to(&judge(&[(2, "its disk is nearly full")], None)), Some(1));
        let both = judge(&[(1, "it lags"), (2, "its disk is nearly full")], None);
        assert_eq!(
            both.to_string(),
            "stays: coordinator 2 would be better but its disk is nearly full"
        );
        assert_eq!(to(&judge(&[], Some("the members are being changed"))), None);
    }

    #[test]
    fn a_window_without_the_gain_begins_the_count_anew() {
        let dips = (0..100).map(|window| if window % 3 == 2 { ALIKE } else { EU });
        assert_eq!(run(dips), []);
    }
}
