//! Binds a data directory to one coordinator of one cluster.
//!
//! No other coordinator or cluster may open it. Its incarnation, a UUID made with the directory,
//! and a count of starts tell it from every other directory of the same coordinator.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pghc_api::id::ClusterId;
use pghc_runtime::mutation::{self, Mutant};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::coordinator::log::disk::Disk;
use crate::coordinator::settings::Settings;
use crate::coordinator::small_file;

const FILE: &str = "identity.json";

/// File beside the log with the incarnation that owns the log, so that logs cannot be exchanged.
const LOG_OWNER: &str = "incarnation";

/// Advice for a coordinator that has lost data.
pub(crate) const REPLACE_HINT: &str = "start a new coordinator with an id that was never used, an empty --data and --join, and put it \
     in this one's place: pghc members replace OLD NEW=ZONE=URL";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    cluster_id: ClusterId,
    coordinator_id: u64,
    /// Whether a log ever existed beside this file.
    #[serde(default)]
    founded: bool,
    /// Made with the directory; empty in directories of the first version.
    #[serde(default)]
    incarnation: String,
    /// Number of starts.
    #[serde(default)]
    starts: u64,
}

/// A data directory that belongs to this coordinator.
pub(crate) struct DataDirIdentity {
    disk: Arc<dyn Disk>,
    /// Path, for messages.
    dir: PathBuf,
    identity: Identity,
}

impl DataDirIdentity {
    /// Checks that the directory on `disk` belongs to this coordinator or to none yet.
    ///
    /// # Errors
    /// If it belongs to another coordinator or cluster, or is not readable. Nothing is changed.
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

    /// Counts this start durably; the caller holds the directory's lock.
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

    /// Returns the directory's UUID.
    pub(crate) fn incarnation(&self) -> &str {
        &self.identity.incarnation
    }

    /// Returns the number of starts on this directory.
    pub(crate) fn starts(&self) -> u64 {
        self.identity.starts
    }

    /// Checks that a log that existed still exists.
    ///
    /// # Errors
    /// If the log is new although this coordinator had one. The vote and the acknowledged entries
    /// are lost with it, and voting again could lose acknowledged writes.
    pub(crate) fn check(&self, log_is_new: bool) -> io::Result<()> {
        if self.identity.founded && log_is_new && !mutation::is_active(Mutant::WipedVotes) {
            return Err(invalid(format!(
                "the log of coordinator {} in {} is missing although it existed before; it must not vote \
                 again under this id, since acknowledged writes could be lost; {REPLACE_HINT}",
                self.identity.coordinator_id,
                self.dir.display()
            )));
        }
        Ok(())
    }

    /// Records that a log exists from now on.
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

/// Returns a new UUID; in a simulation it is drawn from the process's seed.
pub(crate) fn new_uuid() -> String {
    if let Some(process) = pghc_runtime::task::process::Process::current() {
        return Uuid::from_u64_pair(process.random(), process.random()).to_string();
    }
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use pghc_runtime::telemetry::Metrics;

    use super::DataDirIdentity;
    use crate::coordinator::log::disk::Directory;
    use crate::coordinator::quorum_acks::Acks;
    use crate::coordinator::settings::Geo;
    use crate::coordinator::settings::Retention;
    use crate::coordinator::settings::{Settings, Timing};

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
    fn directory_opens_only_for_its_own_coordinator() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (start(dir.path()), start(dir.path()));
        assert_eq!((first.starts(), second.starts()), (1, 2));
        let same = first.incarnation() == second.incarnation();
        assert!(same, "the incarnation lasts as long as its directory");
        for (cluster, id) in [(OURS, 2), (OTHER, 1)] {
            let error = take(dir.path(), cluster, id).err().expect("not ours");
            assert!(error.to_string().contains("nothing was changed"), "{error}");
        }
    }

    #[test]
    fn coordinator_refuses_to_start_after_losing_its_log() {
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
    fn log_of_another_directory_is_refused() {
        let (mine, other) = (tempfile::tempdir(), tempfile::tempdir());
        let (mine, other) = (mine.expect("a directory"), other.expect("a directory"));
        start(other.path());
        let error = start(mine.path()).count_start(&log(other.path())).expect_err("another's log");
        assert!(error.to_string().contains("pghc members replace"), "{error}");
    }
}
