//! Reads and replays a stopped coordinator's directory, without changing it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use openraft::{EntryPayload, Membership};
use pghc_api::chain::Head;
use pghc_api::id::ClusterId;
use serde::Deserialize;

use super::error::RecoverError;
use crate::coordinator::consensus::codec::decode;
use crate::coordinator::consensus::type_config::{Entry, LogId, Member, Vote};
use crate::coordinator::log::Offline;
use crate::coordinator::replica::snapshots::Snapshots;
use crate::sequencer::{OrderResult, Sequencer};

/// Bytes of one log read.
const READ_BYTES: usize = 8 << 20;

/// Fields of `identity.json` that are used here.
#[derive(Deserialize)]
struct Identity {
    cluster_id: ClusterId,
    coordinator_id: u64,
}

/// Content of a directory.
#[derive(Debug)]
pub struct Survivor {
    /// The coordinator's directory.
    pub dir: PathBuf,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Coordinator that owns the directory.
    pub id: u64,
    /// Newest vote: term, coordinator voted for, and whether a majority had confirmed it.
    pub vote: Option<(u64, u64, bool)>,
    /// Oldest and newest entry in the log.
    pub entries: Option<(u64, u64)>,
    /// Index and term of the newest entry, in the log or covered by the snapshot.
    pub last: Option<(u64, u64)>,
    /// Newest index that this coordinator knew as committed; more may have been.
    pub committed: Option<u64>,
    /// The chain's head at that index.
    pub committed_head: Option<Head>,
    /// The chain's head at the newest entry, committed or not.
    pub head: Option<Head>,
    /// Coordinators of the newest membership in the directory, with their zones.
    pub members: BTreeMap<u64, String>,
    /// Voter sets that each need a majority: one, or two during joint consensus.
    pub(super) configs: Vec<BTreeSet<u64>>,
    pub(super) nodes: BTreeMap<u64, Member>,
    pub(super) last_id: Option<LogId>,
    /// Heads at the wanted ids, as far as the entries reach, and at those of
    /// [`Survivor::ids_to_compare`].
    pub(super) heads: BTreeMap<u64, Head>,
}

impl Survivor {
    /// Reads `dir`, a coordinator's data directory, and records the heads at the `wanted` ids.
    ///
    /// # Errors
    /// [`RecoverError`]: not a coordinator's directory, in use, or damaged.
    pub fn read(dir: &Path, wanted: &BTreeSet<u64>) -> Result<Self, RecoverError> {
        let io = |error| RecoverError::Unreadable(dir.to_owned(), error);
        let identity = std::fs::read(dir.join("identity.json")).map_err(io)?;
        let identity: Identity =
            serde_json::from_slice(&identity).map_err(|error| io(io::Error::other(error)))?;
        let log = Offline::open(&dir.join("log")).map_err(RecoverError::Log)?;
        let state = log.state();
        let invalid = |bytes: &bytes::Bytes| decode::<Vote>(bytes).map_err(io);
        let vote = state.vote.as_ref().map(invalid).transpose()?;
        let committed: Option<LogId> = match &state.committed {
            Some(bytes) => decode(bytes).map_err(io)?,
            None => None,
        };
        let committed = committed.map(|log_id| log_id.index);
        let mut replay = Replay::new(dir, &identity.cluster_id, wanted).map_err(io)?;
        let first = state.first.unwrap_or_else(|| state.purged.as_ref().map_or(0, |it| it.0 + 1));
        if first > replay.next() {
            return Err(RecoverError::Hole { dir: dir.to_owned(), first, next: replay.next() });
        }
        // The snapshot covers every index up to its own.
        let committed = committed.max(replay.last_id.map(|last| last.index));
        replay.read(&log, committed).map_err(io)?;
        for head in [replay.committed_head, replay.sequencer.head()].into_iter().flatten() {
            replay.heads.insert(head.id.get(), head);
        }
        let nodes: BTreeMap<u64, Member> =
            replay.membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        Ok(Self {
            dir: dir.to_owned(),
            cluster: identity.cluster_id,
            id: identity.coordinator_id,
            vote: vote.map(|it| (it.leader_id.term, it.leader_id.node_id, it.committed)),
            entries: state.first.zip(state.last),
            last: replay.last_id.map(|last| (last.index, last.leader_id.term)),
            committed,
            committed_head: replay.committed_head,
            head: replay.sequencer.head(),
            members: nodes.iter().map(|(id, member)| (*id, member.zone.clone())).collect(),
            configs: replay.membership.get_joint_config().clone(),
            nodes,
            last_id: replay.last_id,
            heads: replay.heads,
        })
    }

    /// Returns the newest id, 0 for none.
    #[must_use]
    pub fn newest_id(&self) -> u64 {
        self.head.map_or(0, |head| head.id.get())
    }

    /// Returns the ids at which zones are compared with this survivor: its newest id and its newest
    /// committed id. A difference at the first id only means that the survivor's tail was never
    /// acknowledged.
    #[must_use]
    pub fn ids_to_compare(&self) -> BTreeSet<u64> {
        [self.committed_head, self.head].into_iter().flatten().map(|head| head.id.get()).collect()
    }
}

/// State replayed from snapshot and log.
struct Replay<'a> {
    sequencer: Sequencer,
    last_id: Option<LogId>,
    membership: Membership<u64, Member>,
    committed_head: Option<Head>,
    wanted: &'a BTreeSet<u64>,
    heads: BTreeMap<u64, Head>,
}

impl<'a> Replay<'a> {
    /// Begins at the snapshot in `dir`, or at the empty state.
    fn new(dir: &Path, cluster: &ClusterId, wanted: &'a BTreeSet<u64>) -> io::Result<Self> {
        let mut replay = Self {
            sequencer: Sequencer::new(cluster.clone()),
            last_id: None,
            membership: Membership::default(),
            committed_head: None,
            wanted,
            heads: BTreeMap::new(),
        };
        let snapshots = Snapshots::open(dir)?;
        if let Some(snapshot) = snapshots.load()? {
            let restored = Sequencer::restore(cluster, &snapshot.snapshot);
            replay.sequencer = restored.map_err(io::Error::other)?;
            replay.last_id = snapshot.meta.last_log_id;
            replay.membership = snapshot.meta.last_membership.membership().clone();
            replay.committed_head = replay.sequencer.head();
            replay.note_head();
        }
        Ok(replay)
    }

    fn next(&self) -> u64 {
        self.last_id.map_or(0, |last| last.index + 1)
    }

    fn note_head(&mut self) {
        if let Some(head) = self.sequencer.head() {
            self.note(head);
        }
    }

    fn note(&mut self, head: Head) {
        if self.wanted.contains(&head.id.get()) {
            self.heads.insert(head.id.get(), head);
        }
    }

    fn read(&mut self, log: &Offline, committed: Option<u64>) -> io::Result<()> {
        loop {
            let records = log.read(&(self.next()..u64::MAX), READ_BYTES)?;
            if records.is_empty() {
                return Ok(());
            }
            for record in records {
                self.take(decode(&record.body)?)?;
                if committed.is_some_and(|committed| record.index <= committed) {
                    self.committed_head = self.sequencer.head();
                }
            }
        }
    }

    fn take(&mut self, entry: Entry) -> io::Result<()> {
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => self.membership = membership,
            EntryPayload::Normal(proposal) => {
                let sequenced = self.sequencer.advance(entry.log_id.index, proposal.0);
                let sequenced = sequenced.map_err(io::Error::other)?;
                for outcome in sequenced.map(|it| it.outcomes).unwrap_or_default() {
                    if let OrderResult::Ordered(head) = outcome {
                        self.note(head);
                    }
                }
            }
        }
        self.last_id = Some(entry.log_id);
        Ok(())
    }
}
