//! Whose directory a data directory is, so that it is never opened by another coordinator or
//! cluster, and which of all directories of that coordinator: by its incarnation, a UUID made when
//! it was new, and by the number of its starts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pghc_api::id::ClusterId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::coordinator::log::disk::Disk;
use crate::coordinator::settings::Settings;
use crate::coordinator::small_file;
use crate::sabotage::{self, Bug};

const FILE: &str = "identity.json";

/// Beside the log: the incarnation it belongs to, so that a log cannot be exchanged for another.
const LOG_OWNER: &str = "incarnation";

/// What to do with a coordinator that has lost what it had.
pub(crate) const REPLACE_HINT: &str = "start a new coordinator with an id that was never used, an empty --data and --join, and put it \
     in this one's place: pghc members replace OLD NEW=ZONE=URL";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    cluster_id: ClusterId,
    coordinator_id: u64,
    /// Whether there was ever a log beside it.
    #[serde(default)]
    founded: bool,
    /// Made when the directory was new; empty in one of the first version.
    #[serde(default)]
    incarnation: String,
    /// How often it was started.
    #[serde(default)]
    starts: u64,
}

/// A directory that is this coordinator's.
pub(crate) struct DataDirIdentity {
    disk: Arc<dyn Disk>,
    /// Where it is, for messages.
    dir: PathBuf,
    identity: Identity,
}

impl DataDirIdentity {
    /// Checks that the directory on `disk` is this coordinator's, or nobody's yet.
    ///
    /// # Errors
    /// If it belongs to another coordinator or cluster, or cannot be read. Nothing was changed.
    pub(crate) fn take(disk: Arc<dyn Disk>, settings: &Settings) -> io::Result<Self> {
        let dir = settings.data.clone();
        let ours = Identity {
            cluster_id: settings.cluster.clone(),
            coordinator_id: settings.id,
            founded: false,
            incarnation: String::new(),
            starts: 0,
        };
        let found = match small_file::read(disk.as_ref(), FILE)? {
            Some(bytes) => serde_json::from_slice::<Identity>(&bytes).map_err(|error| {
                let path = dir.join(FILE);
                let path = path.display();
                invalid(format!("{path} is not readable ({error}); nothing was changed"))
            })?,
            None => ours.clone(),
        };
        let whose = |it: &Identity| {
            format!("coordinator {} of cluster {}", it.coordinator_id, it.cluster_id)
        };
        if whose(&found) != whose(&ours) {
            let (dir, found, ours) = (dir.display(), whose(&found), whose(&ours));
            return Err(invalid(format!(
                "{dir} holds the data of {found}, not of {ours}; nothing was changed; give another \
                 --data or --id"
            )));
        }
        Ok(Self { disk, dir, identity: found })
    }

    /// Counts this start, durably; the directory must be locked against other processes.
    ///
    /// # Errors
    /// If the directory cannot be written, or the log on `log` belongs to another incarnation.
    pub(crate) fn count_start(&mut self, log: &dyn Disk) -> io::Result<()> {
        if self.identity.incarnation.is_empty() {
            self.identity.incarnation = new_uuid();
        }
        self.identity.starts += 1;
        self.write()?;
        let ours = self.identity.incarnation.as_bytes();
        match small_file::read(log, LOG_OWNER)? {
            Some(owner) if owner == ours => Ok(()),
            Some(_) => Err(invalid(format!(
                "the log in {} belongs to another data directory than the identity.json beside it; \
                 put back the one that belongs there, or {REPLACE_HINT}",
                self.dir.display()
            ))),
            None => small_file::write(log, LOG_OWNER, ours),
        }
    }

    fn write(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.identity)?;
        small_file::write(self.disk.as_ref(), FILE, &bytes)
    }

    /// The directory's own UUID.
    pub(crate) fn incarnation(&self) -> &str {
        &self.identity.incarnation
    }

    /// How often the directory was started on.
    pub(crate) fn starts(&self) -> u64 {
        self.identity.starts
    }

    /// Checks that a log that once was is still there.
    ///
    /// # Errors
    /// If the log is new although this coordinator has had one: it has forgotten its vote and what it
    /// acknowledged, and voting again could lose acknowledged writes.
    pub(crate) fn check(&self, log_is_new: bool) -> io::Result<()> {
        if self.identity.founded && log_is_new && !sabotage::is(Bug::WipedVotes) {
            return Err(invalid(format!(
                "the log of coordinator {} in {} is gone although it once was there; it must not vote \
                 again under this id, since acknowledged writes could be lost; {REPLACE_HINT}",
                self.identity.coordinator_id,
                self.dir.display()
            )));
        }
        Ok(())
    }

    /// Remembers that there is a log now.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub(crate) fn founded(&mut self) -> io::Result<()> {
        if self.identity.founded {
            return Ok(());
        }
        self.identity.founded = true;
        self.write()
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// A new UUID; in a simulation from its seed.
pub(crate) fn new_uuid() -> String {
    if let Some(process) = crate::task::process::Process::current() {
        return Uuid::from_u64_pair(process.random(), process.random()).to_string();
    }
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use super::DataDirIdentity;
    use crate::coordinator::log::disk::Directory;
    use crate::coordinator::quorum_acks::Acks;
    use crate::coordinator::settings::Geo;
    use crate::coordinator::settings::Retention;
    use crate::coordinator::settings::{Settings, Timing};
    use crate::telemetry::Metrics;

    const OURS: &str = "00000000-0000-4000-8000-000000000001";
    const OTHER: &str = "00000000-0000-4000-8000-000000000002";

    fn take(dir: &Path, cluster: &str, id: u64) -> std::io::Result<DataDirIdentity> {
        let settings = Settings {
            cluster: cluster.parse().expect("a UUID"),
            id,
            data: dir.to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            members: BTreeMap::new(),
            join: false,
            zones: Vec::new(),
            timing: Timing::LAN,
            geo: Geo::default(),
            retention: Retention::default(),
            acks: Acks::default(),
            metrics: Metrics::for_coordinator(),
        };
        DataDirIdentity::take(Arc::new(Directory::open(dir)?), &settings)
    }

    fn log(dir: &Path) -> Directory {
        Directory::open(&dir.join("log")).expect("a directory")
    }

    fn start(dir: &Path) -> DataDirIdentity {
        let mut identity = take(dir, OURS, 1).expect("ours");
        identity.count_start(&log(dir)).expect("counted");
        identity
    }

    #[test]
    fn a_directory_is_opened_only_by_the_coordinator_it_belongs_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (start(dir.path()), start(dir.path()));
        assert_eq!((first.starts(), second.starts()), (1, 2));
        let same = first.incarnation() == second.incarnation();
        assert!(same, "an incarnation lasts as long as its directory");
        for (cluster, id) in [(OURS, 2), (OTHER, 1)] {
            let error = take(dir.path(), cluster, id).err().expect("not ours");
            assert!(error.to_string().contains("nothing was changed"), "{error}");
        }
    }

    #[test]
    fn a_coordinator_whose_log_is_gone_refuses_to_vote_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut identity = start(dir.path());
        identity.check(true).expect("it never had a log");
        identity.founded().expect("written");
        let identity = start(dir.path());
        identity.check(false).expect("the log is there");
        let error = identity.check(true).expect_err("the log is gone");
        assert!(error.to_string().contains("must not vote again"), "{error}");
    }

    #[test]
    fn a_log_of_another_directory_is_refused() {
        let (mine, other) = (tempfile::tempdir(), tempfile::tempdir());
        let (mine, other) = (mine.expect("a directory"), other.expect("a directory"));
        start(other.path());
        let error = start(mine.path()).count_start(&log(other.path())).expect_err("another's log");
        assert!(error.to_string().contains("pghc members replace"), "{error}");
    }
}
