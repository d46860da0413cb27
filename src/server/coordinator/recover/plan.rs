//! Plans the recovery from the newest survivor: losses and obstacles.

use std::collections::{BTreeMap, BTreeSet};

use pghc_api::chain::Head;

use super::error::RecoverError;
use super::survivor::Survivor;

/// Links read from a zone's database.
#[derive(Debug, Clone)]
pub struct ZoneChain {
    /// The zone.
    pub zone: String,
    /// Newest link; `None` for an empty chain.
    pub head: Option<Head>,
    /// Links at the ids of [`Survivor::ids_to_compare`] up to its newest; `None` for a missing row.
    pub links: BTreeMap<u64, Option<Head>>,
}

impl ZoneChain {
    /// Returns the newest id, 0 for none.
    fn newest_id(&self) -> u64 {
        self.head.map_or(0, |head| head.id.get())
    }

    /// Returns the links to compare, by id.
    fn compared(&self) -> BTreeMap<u64, Option<Head>> {
        let head = self.head.map(|head| (head.id.get(), Some(head)));
        self.links.clone().into_iter().chain(head).collect()
    }
}

/// Obstacle to a recovery from the survivor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The survivors are a majority: nothing is lost, and a start suffices.
    QuorumIsThere,
    /// A zone has applied ids that the survivor does not hold.
    ZoneAhead {
        /// The zone.
        zone: String,
        /// First id that would be lost.
        from: u64,
        /// Last one.
        to: u64,
    },
    /// A zone holds another link than the survivor: another history, or edited rows. Its ids above
    /// the survivor's newest are not counted as well.
    ZoneDiffers {
        /// The zone.
        zone: String,
        /// First compared id where they differ.
        id: u64,
        /// Newest compared id below it with equal links, 0 for none.
        agrees_to: u64,
        /// The zone's newest id.
        to: u64,
        /// Zones that have the survivor's link under `id`.
        backed_by: Vec<String>,
    },
    /// No zone's chain was given.
    NoZoneAsked,
}

/// Consequences of a recovery from the newest survivor.
#[derive(Debug)]
pub struct Plan {
    /// The survivor with the newest entry.
    pub keep: Survivor,
    /// Other survivors; they hold no acknowledged write that `keep` lacks.
    pub others: Vec<Survivor>,
    /// Members without a given directory.
    pub missing: BTreeSet<u64>,
    /// Obstacles, in the order of the given zones.
    pub obstacles: Vec<Obstacle>,
    /// Zones whose newest link is older than the survivor's entries, so that it could not be
    /// compared.
    pub unchecked: Vec<String>,
    /// Newest term that any survivor has seen.
    pub(super) term: u64,
}

/// Whether a zone's link equals the survivor's. The digest covers the time.
fn is_same(theirs: Option<Head>, ours: &Head) -> bool {
    theirs.is_some_and(|theirs| (theirs.hash, theirs.digest) == (ours.hash, ours.digest))
}

impl Plan {
    /// Compares the survivors with the zones.
    ///
    /// # Errors
    /// [`RecoverError::Mismatched`].
    pub fn new(mut survivors: Vec<Survivor>, zones: &[ZoneChain]) -> Result<Self, RecoverError> {
        let mismatched = |text: String| Err(RecoverError::Mismatched(text));
        survivors.sort_by_key(|it| it.last_id);
        let ids: BTreeSet<u64> = survivors.iter().map(|it| it.id).collect();
        if ids.len() < survivors.len() {
            return mismatched("two of the directories are of the same coordinator".to_owned());
        }
        if let Some(pair) = survivors.windows(2).find(|pair| pair[0].cluster != pair[1].cluster) {
            let (one, other) = (&pair[0], &pair[1]);
            return mismatched(format!(
                "{} is of cluster {} and {} of cluster {}",
                one.dir.display(),
                one.cluster,
                other.dir.display(),
                other.cluster
            ));
        }
        let terms = survivors.iter().filter_map(|it| it.vote.map(|(term, _, _)| term));
        let term = terms.chain(survivors.iter().filter_map(|it| it.last.map(|last| last.1))).max();
        let Some(keep) = survivors.pop() else {
            return mismatched("no directory was given".to_owned());
        };
        if !keep.members.contains_key(&keep.id) {
            return mismatched(format!(
                "coordinator {} in {} has no membership, so it holds nothing",
                keep.id,
                keep.dir.display()
            ));
        }
        let mut plan = Self {
            missing: keep.members.keys().copied().filter(|id| !ids.contains(id)).collect(),
            others: survivors,
            obstacles: Vec::new(),
            unchecked: Vec::new(),
            term: term.unwrap_or_default(),
            keep,
        };
        plan.weigh(&ids, zones);
        Ok(plan)
    }

    fn weigh(&mut self, ids: &BTreeSet<u64>, zones: &[ZoneChain]) {
        let has_majority =
            |voters: &BTreeSet<u64>| voters.intersection(ids).count() > voters.len() / 2;
        if self.keep.configs.iter().all(has_majority) {
            self.obstacles.push(Obstacle::QuorumIsThere);
        }
        if zones.is_empty() {
            self.obstacles.push(Obstacle::NoZoneAsked);
        }
        for zone in zones {
            self.compare(zone, zones);
        }
    }

    /// Compares one zone's chain with the survivor's, as far as both reach.
    fn compare(&mut self, chain: &ZoneChain, zones: &[ZoneChain]) {
        let (newest, to, zone) = (self.keep.newest_id(), chain.newest_id(), chain.zone.clone());
        let (mut agrees_to, mut differs) = (0, None);
        for (id, theirs) in chain.compared() {
            let Some(ours) = self.keep.heads.get(&id) else { continue };
            if is_same(theirs, ours) {
                agrees_to = id;
            } else {
                differs = Some(id);
                break;
            }
        }
        if let Some(id) = differs {
            let ours = &self.keep.heads[&id];
            let backs = |it: &&ZoneChain| is_same(it.compared().get(&id).copied().flatten(), ours);
            let backed_by = zones.iter().filter(backs).map(|it| it.zone.clone()).collect();
            self.obstacles.push(Obstacle::ZoneDiffers { zone, id, agrees_to, to, backed_by });
            return;
        }
        if agrees_to == 0 && to.min(newest) > 0 {
            self.unchecked.push(zone.clone());
        }
        if to > newest {
            self.obstacles.push(Obstacle::ZoneAhead { zone, from: newest + 1, to });
        }
    }

    /// Returns the number of ids that zones have and the survivor lacks: they would be dropped.
    #[must_use]
    pub fn lost_ids(&self) -> u64 {
        let ahead = |it: &Obstacle| match it {
            Obstacle::ZoneAhead { from, to, .. } => to - from + 1,
            _ => 0,
        };
        self.obstacles.iter().map(ahead).max().unwrap_or(0)
    }

    /// Returns voters without a directory: only they can hold further acknowledged writes.
    #[must_use]
    pub fn missing_voters(&self) -> BTreeSet<u64> {
        let voters = self.keep.configs.iter().flatten().copied();
        voters.filter(|id| self.missing.contains(id)).collect()
    }
}
