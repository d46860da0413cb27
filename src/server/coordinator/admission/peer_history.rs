//! Remembers what this coordinator has seen of its peers, in `peers.json`.
//!
//! A peer that returns with less than its record has lost data and is rejected.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use pghc_runtime::rpc::v1::NodeInfo;
use pghc_runtime::task::blocking;
use serde::{Deserialize, Serialize};

use crate::coordinator::log::disk::Disk;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::membership::acknowledged;
use crate::coordinator::small_file;

const FILE: &str = "peers.json";

/// Time between two updates from the leader's replication progress. Newer acknowledgements are
/// known to a running leader only.
const PERIOD: Duration = Duration::from_secs(2);

/// Newest observations of one incarnation of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerRecord {
    pub(crate) incarnation: String,
    /// Its newest start and the UUID of that start.
    pub(crate) starts: u64,
    pub(crate) boot: String,
    /// Largest term in which it has voted.
    pub(crate) term: u64,
    /// Index after its newest committed entry on disk.
    pub(crate) next_index: u64,
}

impl PeerRecord {
    /// Binds the record to `incarnation`. Observations without an incarnation are kept, those of
    /// another one are dropped; an empty `incarnation` changes nothing.
    fn reset_for(&mut self, incarnation: &str) {
        if !self.incarnation.is_empty()
            && !incarnation.is_empty()
            && self.incarnation != incarnation
        {
            *self = Self::default();
        }
        if self.incarnation.is_empty() {
            incarnation.clone_into(&mut self.incarnation);
        }
    }

    /// Whether the record exceeds what the peer reports, so that the peer has lost data.
    pub(crate) fn is_ahead_of(&self, it: &NodeInfo) -> bool {
        self.starts > it.starts
            || (self.starts == it.starts && self.boot != it.boot)
            || self.term > it.term
            || self.next_index > it.next_index
    }
}

/// Records in memory, with a count of changes.
#[derive(Debug, Default)]
struct Records {
    seen: BTreeMap<u64, PeerRecord>,
    version: u64,
}

/// Clones share the records.
#[derive(Clone)]
pub(crate) struct PeerHistory {
    id: u64,
    disk: Arc<dyn Disk>,
    memory: Arc<Mutex<Records>>,
    /// Version on disk; the writer holds the lock.
    written: Arc<tokio::sync::Mutex<u64>>,
}

impl PeerHistory {
    /// Loads the records from `disk`.
    ///
    /// # Errors
    /// If the file exists and is not readable.
    pub(crate) fn load(id: u64, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let seen = match small_file::read(disk.as_ref(), FILE)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{FILE} is not readable ({error}); nothing was changed; move the file away: \
                         this coordinator then knows less about its peers"
                    ),
                )
            })?,
            None => BTreeMap::new(),
        };
        let memory = Arc::new(Mutex::new(Records { seen, version: 0 }));
        Ok(Self { id, disk, memory, written: Arc::default() })
    }

    /// Returns once every current record is durable. Writers take turns, and each writes the newest
    /// records, so that no older version replaces a newer one.
    async fn save(&self) -> io::Result<()> {
        let mut written = Arc::clone(&self.written).lock_owned().await;
        let (version, bytes) = {
            let memory = self.memory.lock();
            if *written == memory.version {
                return Ok(());
            }
            (memory.version, serde_json::to_vec_pretty(&memory.seen)?)
        };
        let disk = Arc::clone(&self.disk);
        // The lock moves into the write: it lasts until the write ends, even if the caller has
        // gone.
        let write = move || {
            small_file::write(disk.as_ref(), FILE, &bytes)?;
            *written = version;
            Ok(())
        };
        blocking(write).await?
    }

    /// Returns the record of a peer before its present report is merged.
    pub(crate) fn of(&self, it: &NodeInfo, raft: &Raft) -> PeerRecord {
        let next_index = acknowledged(raft).remove(&it.coordinator_id).unwrap_or_default();
        let vote = raft.metrics().borrow_watched().vote.leader_id;
        let seen = self.memory.lock().seen.get(&it.coordinator_id).cloned();
        let mut seen = seen.unwrap_or_default();
        seen.reset_for(&it.incarnation);
        seen.next_index = seen.next_index.max(next_index);
        if vote.node_id == it.coordinator_id {
            seen.term = seen.term.max(vote.term);
        }
        seen
    }

    /// Records a peer's report; durable on return.
    pub(crate) async fn record(&self, it: &NodeInfo) -> io::Result<()> {
        {
            let mut memory = self.memory.lock();
            let sighting = memory.seen.entry(it.coordinator_id).or_default();
            let before = sighting.clone();
            sighting.reset_for(&it.incarnation);
            sighting.starts = it.starts;
            sighting.boot.clone_from(&it.boot);
            sighting.term = sighting.term.max(it.term);
            memory.version += u64::from(memory.seen.get(&it.coordinator_id) != Some(&before));
        }
        self.save().await
    }

    /// Records the indexes that members have acknowledged, by their incarnations.
    fn record_acknowledged(&self, acknowledged: &[(u64, &str, u64)]) {
        let mut memory = self.memory.lock();
        for (id, incarnation, next_index) in acknowledged {
            let sighting = memory.seen.entry(*id).or_default();
            sighting.reset_for(incarnation);
            if *next_index > sighting.next_index {
                sighting.next_index = *next_index;
                memory.version += 1;
            }
        }
    }

    /// Records acknowledged indexes every [`PERIOD`] while this coordinator leads.
    pub(crate) async fn follow(self, raft: Raft, peers: PeerDirectory) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let (acknowledged, (members, _)) = (acknowledged(&raft), peers.members());
            let others = acknowledged.into_iter().filter(|(id, _)| *id != self.id);
            let named = others.filter_map(|(id, next_index)| {
                Some((id, members.get(&id)?.incarnation.as_str(), next_index))
            });
            self.record_acknowledged(&named.collect::<Vec<_>>());
            if let Err(error) = self.save().await {
                tracing::warn!(%error, "peer history write failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::{NodeInfo, PeerHistory, PeerRecord};
    use crate::coordinator::log::disk::{Directory, Disk, DiskFile};

    fn it(incarnation: &str) -> NodeInfo {
        let incarnation = incarnation.to_owned();
        NodeInfo { coordinator_id: 2, incarnation, starts: 3, ..NodeInfo::default() }
    }

    fn of(peer_history: &PeerHistory) -> PeerRecord {
        peer_history.memory.lock().seen.get(&2).cloned().unwrap_or_default()
    }

    #[tokio::test]
    async fn record_is_kept_for_member_without_incarnation() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(dir.path()).expect("a directory"));
        let peer_history = PeerHistory::load(1, Arc::clone(&disk)).expect("nothing yet");
        peer_history.record_acknowledged(&[(2, "", 70)]);
        peer_history.record(&it("a")).await.expect("written");
        assert_eq!((of(&peer_history).next_index, of(&peer_history).starts), (70, 3));
        // The membership records no incarnation yet: both observations are kept.
        peer_history.record_acknowledged(&[(2, "", 60)]);
        let loaded = PeerHistory::load(1, disk).expect("written");
        for seen in [of(&peer_history), of(&loaded)] {
            let (name, next_index) = (seen.incarnation.as_str(), seen.next_index);
            assert_eq!((name, next_index, seen.starts), ("a", 70, 3));
            assert!(seen.is_ahead_of(&it("a")), "it has fewer entries than it acknowledged");
        }
        peer_history.record_acknowledged(&[(2, "b", 5)]);
        let seen = of(&peer_history);
        assert_eq!((seen.incarnation.as_str(), seen.next_index, seen.starts), ("b", 5, 0));
    }

    /// A disk on which every `create` blocks until released.
    struct Stuck(Directory, Mutex<mpsc::Receiver<()>>);

    impl Disk for Stuck {
        fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
            self.0.lock()
        }
        fn list(&self) -> io::Result<Vec<String>> {
            self.0.list()
        }
        fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            self.1.lock().recv_timeout(Duration::from_secs(60)).map_err(io::Error::other)?;
            self.0.create(name)
        }
        fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            self.0.open(name)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
        fn sync_dir(&self) -> io::Result<()> {
            self.0.sync_dir()
        }
    }

    /// Single worker: a write on it would block the release of the disk.
    #[tokio::test]
    async fn hanging_disk_blocks_only_the_writer() {
        let dir = tempfile::tempdir().expect("a directory");
        let (let_go, stuck) = mpsc::channel();
        let directory = Directory::open(dir.path()).expect("a directory");
        let disk = Arc::new(Stuck(directory, Mutex::new(stuck)));
        let peer_history = PeerHistory::load(1, disk).expect("nothing yet");
        let (first, second) = (it("a"), NodeInfo { coordinator_id: 3, ..it("c") });
        let others = async {
            // Both are in memory although neither is on disk.
            while peer_history.memory.lock().seen.len() < 2 {
                tokio::task::yield_now().await;
            }
            let_go.send(()).expect("it waits");
            let_go.send(()).expect("it waits");
        };
        let (one, two, ()) =
            tokio::join!(peer_history.record(&first), peer_history.record(&second), others);
        one.and(two).expect("written");
        let disk = Arc::new(Directory::open(dir.path()).expect("a directory"));
        let loaded = PeerHistory::load(1, disk).expect("written").memory.lock().seen.len();
        assert_eq!(loaded, 2, "both are on disk when they return");
    }
}
