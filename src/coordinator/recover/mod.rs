//! Quorum lost for good: what the survivors' directories hold, what may be lost, and how the group
//! goes on from one of them. Offline: no coordinator is started.
//!
//! Invariants: every entry of the survivor is kept, committed or not, since what a majority may have
//! acknowledged must never be dropped; of several survivors the one with the newest entry has every
//! acknowledged write that any of them has (a later leader's log holds everything committed before
//! it); ids that a zone has and the survivor has not are never given up unless they are counted.

mod survivor;
mod write;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use pghc_api::chain::Head;

pub use self::survivor::Survivor;
pub use self::write::{Recovered, write};

/// Why directories cannot be recovered from. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Not a coordinator's directory, or it cannot be read.
    #[error("{} is not a coordinator's data directory that can be read; nothing was changed", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The log is damaged, or the coordinator is running.
    #[error("cannot read the log; nothing was changed")]
    Log(#[source] super::log::OpenError),
    /// Snapshot and log do not meet.
    #[error(
        "{}: the log begins at entry {first} but the snapshot only reaches up to entry {}: writes \
         between them are lost here. Nothing was changed; recover from another survivor",
        dir.display(), next.saturating_sub(1)
    )]
    Hole {
        /// The directory.
        dir: PathBuf,
        /// Oldest entry in the log.
        first: u64,
        /// The entry that is needed.
        next: u64,
    },
    /// The directories do not belong together, or there are none.
    #[error("{0}; nothing was changed")]
    Mismatched(String),
    /// The survivor's log could not be written.
    #[error("{} could not be written; run the same command again", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// How far a zone's database is.
#[derive(Debug, Clone)]
pub struct ZoneHead {
    /// The zone.
    pub zone: String,
    /// Its newest link; `None` when it has none.
    pub head: Option<Head>,
}

/// What stands in the way of going on from the survivor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The survivors are a majority: nothing is lost, they only need to be started.
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
    /// A zone holds another link than the survivor: another history, or edited rows.
    ZoneDiffers {
        /// The zone.
        zone: String,
        /// Where.
        id: u64,
    },
    /// No zone was asked how far it is.
    NoZoneAsked,
}

/// What going on from the newest of the survivors means.
#[derive(Debug)]
pub struct Plan {
    /// The survivor with the newest entry.
    pub keep: Survivor,
    /// Other survivors that were read; they hold nothing acknowledged that `keep` does not.
    pub others: Vec<Survivor>,
    /// Members of which no directory was given.
    pub missing: BTreeSet<u64>,
    /// What is in the way, in the order of the zones given.
    pub obstacles: Vec<Obstacle>,
    /// Zones whose newest link is older than anything the survivor's entries still tell, so that it
    /// could not be compared.
    pub unchecked: Vec<String>,
    /// Newest term that any survivor has seen.
    term: u64,
}

impl Plan {
    /// Weighs the survivors against the zones.
    ///
    /// # Errors
    /// [`RecoverError::Mismatched`].
    pub fn new(mut survivors: Vec<Survivor>, zones: &[ZoneHead]) -> Result<Self, RecoverError> {
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
                "coordinator {} in {} has never been told of its group, so it holds nothing",
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

    fn weigh(&mut self, ids: &BTreeSet<u64>, zones: &[ZoneHead]) {
        let has_majority =
            |voters: &BTreeSet<u64>| voters.intersection(ids).count() > voters.len() / 2;
        if self.keep.configs.iter().all(has_majority) {
            self.obstacles.push(Obstacle::QuorumIsThere);
        }
        if zones.is_empty() {
            self.obstacles.push(Obstacle::NoZoneAsked);
        }
        let newest = self.keep.newest_id();
        for ZoneHead { zone, head } in zones {
            let (Some(head), zone) = (head, zone.clone()) else { continue };
            let id = head.id.get();
            match self.keep.heads.get(&id) {
                _ if id > newest => {
                    self.obstacles.push(Obstacle::ZoneAhead { zone, from: newest + 1, to: id });
                }
                Some(ours) if (ours.hash, ours.digest) == (head.hash, head.digest) => {}
                Some(_) => self.obstacles.push(Obstacle::ZoneDiffers { zone, id }),
                None => self.unchecked.push(zone),
            }
        }
    }

    /// Ids that zones have and the survivor has not: they would be given up.
    #[must_use]
    pub fn lost_ids(&self) -> u64 {
        let ahead = |it: &Obstacle| match it {
            Obstacle::ZoneAhead { from, to, .. } => to - from + 1,
            _ => 0,
        };
        self.obstacles.iter().map(ahead).max().unwrap_or(0)
    }

    /// Voters without a directory: only they can have acknowledged what the survivors do not hold.
    #[must_use]
    pub fn missing_voters(&self) -> BTreeSet<u64> {
        let voters = self.keep.configs.iter().flatten().copied();
        voters.filter(|id| self.missing.contains(id)).collect()
    }
}
