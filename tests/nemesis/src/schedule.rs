//! Schedule of an epoch: faults shuffled by the seed and assigned to three lanes, so up to three
//! overlap. The board keeps them apart: no two use the same resource, and at most one zone loses
//! its vote, unless a class needs the whole cluster.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::cluster::{Look, ZONES};
use crate::faults::{Aim, Class, Needs};

/// Lanes: most faults at once.
pub const LANES: usize = 3;

/// A fault to come.
#[derive(Debug, Clone)]
pub struct PlannedFault {
    /// Place of its class in the catalogue.
    pub class: usize,
    /// How long it lasts.
    pub hold: Duration,
    /// A random number for its own choices, zone included.
    pub seed: u64,
}

/// The fault schedule of an epoch: every class as often as it weighs, times `rounds`, in an order of the seed's.
pub fn fault_schedule(classes: &[Class], rounds: u32, seed: u64) -> VecDeque<PlannedFault> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    for (index, class) in classes.iter().enumerate() {
        for _ in 0..class.weight * rounds {
            let hold = random.random_range(class.hold_ms.0..=class.hold_ms.1);
            let hold = Duration::from_millis(hold);
            faults.push(PlannedFault { class: index, hold, seed: random.random() });
        }
    }
    faults.shuffle(&mut random);
    faults.into()
}

/// What one zone's faults have in use.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    coordinator: bool,
    database: bool,
    api: bool,
    network: bool,
}

#[derive(Debug, Default)]
struct State {
    zones: [Use; ZONES],
    load: bool,
    running: usize,
    everything: bool,
}

/// Resources in use by running faults.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
}

/// A place on the board; given back when it is dropped.
#[derive(Debug)]
pub struct Taken<'a> {
    board: &'a Board,
    needs: Needs,
    /// The zone that was chosen.
    pub zone: usize,
}

impl Board {
    /// Takes the first fault of the fault schedule that may begin now, and its zone.
    pub fn schedule_next<'a>(
        &'a self,
        fault_schedule: &mut VecDeque<PlannedFault>,
        classes: &[Class],
        look: &Look,
    ) -> Option<(PlannedFault, Taken<'a>)> {
        let mut state = self.state.lock();
        if state.everything {
            return None;
        }
        for place in 0..fault_schedule.len() {
            let class = &classes[fault_schedule[place].class];
            if let Some(zone) = state.place(class, fault_schedule[place].seed, look) {
                state.take(class.needs, zone, true);
                let fault = fault_schedule.remove(place)?;
                return Some((fault, Taken { board: self, needs: class.needs, zone }));
            }
            if class.needs == Needs::Everything {
                // No other fault overtakes it, or it would wait forever.
                return None;
            }
        }
        None
    }
}

impl State {
    /// The zone in which this fault may begin now.
    fn place(&self, class: &Class, seed: u64, look: &Look) -> Option<usize> {
        let any = usize::try_from(seed % 3).unwrap_or(0);
        let zone = match (class.aim, look.leader) {
            (Aim::Any, _) => any,
            (Aim::Pair, _) => ZONES - 1,
            (_, None) => return None,
            (Aim::Leader, Some(leader)) => leader,
            (Aim::Biased, Some(leader)) if (seed >> 8).is_multiple_of(2) => leader,
            (Aim::Biased | Aim::Follower, Some(leader)) => {
                (leader + 1 + usize::try_from((seed >> 9) % 2).unwrap_or(0)) % ZONES
            }
        };
        let (here, running) = (self.zones[zone], self.running);
        let vote = (0..ZONES).all(|other| other == zone || !self.zones[other].votes_away());
        let free = match class.needs {
            Needs::Coordinator => !here.coordinator && vote,
            Needs::Network => !here.network && vote,
            Needs::Database => !here.database,
            Needs::Api => !here.api,
            Needs::Zone => !here.coordinator && !here.database && !here.api && vote,
            Needs::Load => !self.load,
            Needs::Everything => running == 0,
        };
        free.then_some(zone)
    }

    fn take(&mut self, needs: Needs, zone: usize, taken: bool) {
        let here = &mut self.zones[zone];
        match needs {
            Needs::Coordinator => here.coordinator = taken,
            Needs::Database => here.database = taken,
            Needs::Api => here.api = taken,
            Needs::Network => here.network = taken,
            Needs::Zone => {
                let network = here.network;
                *here = Use { coordinator: taken, database: taken, api: taken, network };
            }
            Needs::Load => self.load = taken,
            Needs::Everything => self.everything = taken,
        }
        self.running = if taken { self.running + 1 } else { self.running - 1 };
    }
}

impl Use {
    fn votes_away(self) -> bool {
        self.coordinator || self.network
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.board.state.lock().take(self.needs, self.zone, false);
    }
}

#[cfg(test)]
mod tests {
    use super::{Board, fault_schedule};
    use crate::cluster::Look;
    use crate::faults::{Needs, catalogue};

    #[test]
    fn the_same_seed_deals_the_same_deck() {
        let classes = catalogue(true);
        let order = |seed| {
            fault_schedule(&classes, 1, seed).iter().map(|fault| fault.seed).collect::<Vec<_>>()
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }

    /// Two epochs of CI's smoke, which is `smoke --seed 2`, have time for a third of the fault schedule. A class that is
    /// added changes the order: then put the families of the catalogue in another one.
    #[test]
    fn ci_smoke_includes_forgery_faults() {
        let classes = catalogue(false);
        let mut scheduled = Vec::new();
        for seed in crate::soak::epochs(2).take(2) {
            let faults = fault_schedule(&classes, 1, seed).into_iter().take(12);
            scheduled.extend(faults.map(|fault| classes[fault.class].name));
        }
        for name in ["forged-zone", "foreign-bell"] {
            assert!(scheduled.contains(&name), "{name} is not among {scheduled:?}");
        }
    }

    /// Overlapping faults leave a majority its votes, and a fault that needs everything runs alone.
    #[test]
    fn a_quorum_is_kept_unless_a_class_is_about_losing_it() {
        let classes = catalogue(true);
        for seed in 0..200 {
            let (board, mut faults) = (Board::default(), fault_schedule(&classes, 1, seed));
            let look = Look { leader: Some(usize::try_from(seed % 3).unwrap()), ..Look::default() };
            let mut running = Vec::new();
            while !faults.is_empty() {
                match board.schedule_next(&mut faults, &classes, &look) {
                    Some(scheduled) => running.push(scheduled),
                    None => drop(running.remove(0)),
                }
                let needs = |fault: &super::PlannedFault| classes[fault.class].needs;
                let away: std::collections::BTreeSet<usize> = running
                    .iter()
                    .filter(|(fault, _)| {
                        matches!(needs(fault), Needs::Coordinator | Needs::Network | Needs::Zone)
                    })
                    .map(|(_, taken)| taken.zone)
                    .collect();
                assert!(away.len() <= 1, "seed {seed}: {away:?}");
                let alone = running.iter().any(|(fault, _)| needs(fault) == Needs::Everything);
                assert!(!alone || running.len() == 1, "seed {seed}");
            }
        }
    }
}
