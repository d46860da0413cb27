//! What this coordinator has seen of the others, kept on disk (`peers.json`), so that one that comes
//! back with less than it once had can be told so.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::files;
use super::log::disk::Disk;
use super::roster::Roster;
use super::type_config::Raft;
use crate::rpc::v1::Introduction;

const FILE: &str = "peers.json";

/// Time between two looks at what the others have acknowledged; what was acknowledged since the
/// last is known to a living leader only.
const PERIOD: Duration = Duration::from_secs(2);

/// What was seen of one incarnation of one coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sighting {
    pub(super) incarnation: String,
    /// Its newest start, and the UUID of that start.
    pub(super) starts: u64,
    pub(super) boot: String,
    /// Largest term it has voted in.
    pub(super) term: u64,
    /// The index after the newest committed entry that is on its disk.
    pub(super) next_index: u64,
}

/// Clones are the same sightings.
#[derive(Clone)]
pub(super) struct Sightings {
    id: u64,
    disk: Arc<dyn Disk>,
    seen: Arc<Mutex<BTreeMap<u64, Sighting>>>,
}

impl Sightings {
    /// Reads what is kept on `disk`.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub(super) fn load(id: u64, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let seen = match files::read(disk.as_ref(), FILE)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{FILE} is not readable ({error}); nothing was changed; move the file away: \
                         then this coordinator knows less of the others"
                    ),
                )
            })?,
            None => BTreeMap::new(),
        };
        Ok(Self { id, disk, seen: Arc::new(Mutex::new(seen)) })
    }

    fn write(&self, seen: &BTreeMap<u64, Sighting>) -> io::Result<()> {
        files::write(self.disk.as_ref(), FILE, &serde_json::to_vec_pretty(seen)?)
    }

    /// What was seen of a coordinator before it says this of itself.
    pub(super) fn of(&self, it: &Introduction, raft: &Raft) -> Sighting {
        let next_index = acknowledged(raft).remove(&it.coordinator_id).unwrap_or_default();
        let vote = raft.metrics().borrow_watched().vote.leader_id;
        let seen = self.seen.lock().get(&it.coordinator_id).cloned();
        let mut seen = seen.filter(|seen| seen.incarnation == it.incarnation).unwrap_or_default();
        seen.next_index = seen.next_index.max(next_index);
        if vote.node_id == it.coordinator_id {
            seen.term = seen.term.max(vote.term);
        }
        seen
    }

    /// Remembers a coordinator that is what it says it is. Durable when it returns.
    pub(super) fn note(&self, it: &Introduction) -> io::Result<()> {
        let mut seen = self.seen.lock();
        let sighting = seen.entry(it.coordinator_id).or_default();
        let before = sighting.clone();
        if sighting.incarnation != it.incarnation {
            *sighting = Sighting { incarnation: it.incarnation.clone(), ..Sighting::default() };
        }
        sighting.starts = it.starts;
        sighting.boot.clone_from(&it.boot);
        sighting.term = sighting.term.max(it.term);
        if *sighting == before {
            return Ok(());
        }
        self.write(&seen)
    }

    /// Keeps up with what the others acknowledge, for as long as this coordinator leads now and
    /// then.
    pub(super) async fn follow(self, raft: Raft, roster: Roster) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let (acknowledged, (members, _)) = (acknowledged(&raft), roster.members());
            let mut seen = self.seen.lock();
            let mut changed = false;
            for (id, next_index) in acknowledged {
                let Some(member) = members.get(&id).filter(|_| id != self.id) else { continue };
                let sighting = seen.entry(id).or_default();
                if sighting.incarnation != member.incarnation {
                    let incarnation = member.incarnation.clone();
                    *sighting = Sighting { incarnation, ..Sighting::default() };
                }
                if next_index > sighting.next_index {
                    sighting.next_index = next_index;
                    changed = true;
                }
            }
            if changed && let Err(error) = self.write(&seen) {
                tracing::warn!(%error, "failed to keep what was seen of the other coordinators");
            }
        }
    }
}

/// The index after the newest committed entry on each follower's disk, when this coordinator leads.
pub(super) fn acknowledged(raft: &Raft) -> BTreeMap<u64, u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let committed = metrics.cluster_committed.as_ref().map_or(0, |log_id| log_id.index() + 1);
    let Some(replication) = &metrics.replication else { return BTreeMap::new() };
    let next = |(id, matched): (&u64, &Option<super::type_config::LogId>)| {
        let next = matched.as_ref().map_or(0, |log_id| log_id.index() + 1);
        // What is not committed may be cut again, rightly.
        (*id, next.min(committed))
    };
    replication.iter().map(next).collect()
}
