//! Whose directory a data directory is, so that it is never opened by another coordinator or
//! cluster.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pghc_api::id::ClusterId;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    cluster_id: ClusterId,
    coordinator_id: u64,
    /// Whether there was ever a log beside it.
    #[serde(default)]
    founded: bool,
}

/// A directory that is this coordinator's.
#[derive(Debug)]
pub(super) struct Claim {
    dir: PathBuf,
    identity: Identity,
}

impl Claim {
    /// Marks an empty `dir` as this coordinator's, or checks that it is.
    ///
    /// # Errors
    /// If the directory belongs to another coordinator or cluster, or cannot be read or written.
    pub(super) fn take(dir: &Path, cluster: &ClusterId, coordinator_id: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        let ours = Identity { cluster_id: cluster.clone(), coordinator_id, founded: false };
        let found = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Identity>(&bytes).map_err(|error| {
                let path = path.display();
                invalid(format!("{path} is not readable ({error}); nothing was changed"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write(dir, &ours)?;
                ours.clone()
            }
            Err(error) => return Err(error),
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
        Ok(Self { dir: dir.to_owned(), identity: found })
    }

    /// Checks that a log that once was is still there.
    ///
    /// # Errors
    /// If the log is new although this coordinator has had one: it has forgotten its vote and what it
    /// acknowledged, and voting again could lose acknowledged writes.
    pub(super) fn check(&self, log_is_new: bool) -> io::Result<()> {
        if self.identity.founded && log_is_new {
            return Err(invalid(format!(
                "the log of coordinator {} in {} is gone although it once was there; it must not vote \
                 again under this id, since acknowledged writes could be lost; put \
                 its files back into an empty log directory, or leave this coordinator stopped while the others go on",
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
    pub(super) fn founded(self) -> io::Result<()> {
        if self.identity.founded {
            return Ok(());
        }
        write(&self.dir, &Identity { founded: true, ..self.identity })
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn write(dir: &Path, identity: &Identity) -> io::Result<()> {
    let temporary = dir.join("identity.json.new");
    let mut file = File::create(&temporary)?;
    serde_json::to_writer_pretty(&mut file, identity)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use pghc_api::id::ClusterId;

    use super::Claim;

    #[test]
    fn a_directory_is_opened_only_by_the_coordinator_it_belongs_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
        let other: ClusterId = "00000000-0000-4000-8000-000000000002".parse().expect("a UUID");
        Claim::take(dir.path(), &ours, 1).expect("an empty directory");
        Claim::take(dir.path(), &ours, 1).expect("our own");
        for (cluster, id) in [(&ours, 2), (&other, 1)] {
            let error = Claim::take(dir.path(), cluster, id).expect_err("not ours");
            assert!(error.to_string().contains("nothing was changed"), "{error}");
        }
    }

    #[test]
    fn a_coordinator_whose_log_is_gone_refuses_to_vote_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
        let claim = Claim::take(dir.path(), &ours, 1).expect("an empty directory");
        claim.check(true).expect("it never had a log");
        claim.founded().expect("written");
        let claim = Claim::take(dir.path(), &ours, 1).expect("our own");
        claim.check(false).expect("the log is there");
        let error = claim.check(true).expect_err("the log is gone");
        assert!(error.to_string().contains("must not vote again"), "{error}");
    }
}
