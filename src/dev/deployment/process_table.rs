//! Process ids and restart counts of a deployment's children, and the subscribers to changes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;

use parking_lot::Mutex;
use pghc_api::id::ZoneName;
use tokio::sync::broadcast;

use crate::record::{DeploymentRecord, Pids};

/// Changes a slow listener may fall behind; it then misses the oldest.
const EVENTS_MAX: usize = 256;

/// A part of a zone that is a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The database server.
    Postgres,
    /// The member of the Raft group.
    Coordinator,
    /// An API node, counted from 0; its node name ends with this number plus one.
    Api(usize),
}

/// One child of a deployment. Prints as `eu-postgres`, `eu-coordinator`, `eu-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its zone.
    pub zone: ZoneName,
    /// The part of the zone that this child runs.
    pub part: Part,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Part::Postgres => write!(f, "{}-postgres", self.zone),
            Part::Coordinator => write!(f, "{}-coordinator", self.zone),
            Part::Api(node) => write!(f, "{}-{}", self.zone, node + 1),
        }
    }
}

/// A change in the state of a child.
#[derive(Debug, Clone)]
pub enum Change {
    /// The child runs, under this process id.
    Started(u32),
    /// The child ended without a request of the supervisor.
    Ended {
        /// How, where the operating system said.
        status: Option<ExitStatus>,
        /// How many times in a row it ended soon after its start.
        short_lives: u32,
    },
    /// The start failed; the text gives the reason. The supervisor tries again.
    Failed(String),
}

/// A change together with the child it concerns.
#[derive(Debug, Clone)]
pub struct Event {
    /// The child.
    pub member: Member,
    /// The change.
    pub change: Change,
}

/// Everything known of the children, shared by their child supervisors.
#[derive(Debug)]
pub(super) struct ProcessTable {
    data: PathBuf,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct State {
    record: DeploymentRecord,
    running: BTreeMap<Member, Option<u32>>,
    short_lives: BTreeMap<Member, u32>,
    published: bool,
}

impl ProcessTable {
    pub(super) fn new(data: PathBuf, record: DeploymentRecord) -> Self {
        let (running, short_lives) = (BTreeMap::new(), BTreeMap::new());
        let state = State { record, running, short_lives, published: false };
        let (events, _) = broadcast::channel(EVENTS_MAX);
        Self { data, state: Mutex::new(state), events }
    }

    pub(super) fn record(&self) -> DeploymentRecord {
        self.state.lock().record.clone()
    }

    pub(super) fn pid(&self, member: &Member) -> Option<u32> {
        self.state.lock().running.get(member).copied().flatten()
    }

    /// The child that ended soon after its start most often in a row, and how often.
    pub(super) fn most_short_lived(&self) -> Option<(Member, u32)> {
        let state = self.state.lock();
        let most = state.short_lives.iter().max_by_key(|(_, lives)| **lives);
        most.map(|(member, lives)| (member.clone(), *lives))
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Writes `parade.json` from now on, whenever something changes.
    pub(super) fn publish(&self) {
        let mut state = self.state.lock();
        state.published = true;
        self.write(&state);
    }

    /// Removes `parade.json`: nothing of what it says is true any longer.
    pub(super) fn withdraw(&self) {
        let mut state = self.state.lock();
        state.published = false;
        if let Err(error) = std::fs::remove_file(self.data.join(crate::record::FILE)) {
            tracing::warn!(%error, "parade.json removal failed");
        }
    }

    pub(super) fn report(&self, member: &Member, change: Change) {
        let mut state = self.state.lock();
        match &change {
            Change::Started(pid) => {
                state.running.insert(member.clone(), Some(*pid));
                let zone = state.record.zones.iter_mut().find(|zone| zone.name == member.zone);
                let zone = zone.expect("every member stands in a zone of the record");
                set_pid(&mut zone.pids, member.part, *pid);
                if state.published {
                    self.write(&state);
                }
            }
            Change::Ended { short_lives, .. } => {
                state.running.insert(member.clone(), None);
                state.short_lives.insert(member.clone(), *short_lives);
            }
            Change::Failed(reason) => {
                tracing::warn!(%member, reason, "child start failed");
                *state.short_lives.entry(member.clone()).or_default() += 1;
            }
        }
        // A channel without listeners is no error.
        let _ = self.events.send(Event { member: member.clone(), change });
    }

    /// Under the lock, so that an older record never replaces a newer one.
    fn write(&self, state: &State) {
        if let Err(error) = state.record.write(&self.data) {
            tracing::error!(%error, "parade.json write failed");
        }
    }
}

fn set_pid(pids: &mut Pids, part: Part, pid: u32) {
    match part {
        Part::Postgres => pids.postgres = pid,
        Part::Coordinator => pids.coordinator = pid,
        Part::Api(node) => {
            if pids.api.len() <= node {
                pids.api.resize(node + 1, 0);
            }
            pids.api[node] = pid;
        }
    }
}
