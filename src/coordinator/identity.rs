//! Whose directory a data directory is, so that it is never opened by another coordinator or
//! cluster.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use pghc_api::id::ClusterId;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    cluster_id: ClusterId,
    coordinator_id: u64,
}

/// Marks an empty `dir` as this coordinator's, or checks that it is.
///
/// # Errors
/// If the directory belongs to another coordinator or cluster, or cannot be read or written.
pub(super) fn claim(dir: &Path, cluster: &ClusterId, coordinator_id: u64) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let path = dir.join("identity.json");
    let ours = Identity { cluster_id: cluster.clone(), coordinator_id };
    match fs::read(&path) {
        Ok(bytes) => {
            let found: Identity = serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is not readable ({error}); nothing was changed", path.display()),
                )
            })?;
            if found == ours {
                return Ok(());
            }
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} holds the data of coordinator {} of cluster {}, not of coordinator {} of \
                     cluster {}; nothing was changed; give another --data or --id",
                    dir.display(),
                    found.coordinator_id,
                    found.cluster_id,
                    ours.coordinator_id,
                    ours.cluster_id
                ),
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let temporary = dir.join("identity.json.new");
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &ours)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(dir)?.sync_all()
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use pghc_api::id::ClusterId;

    use super::claim;

    #[test]
    fn a_directory_is_opened_only_by_the_coordinator_it_belongs_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
        let other: ClusterId = "00000000-0000-4000-8000-000000000002".parse().expect("a UUID");
        claim(dir.path(), &ours, 1).expect("an empty directory");
        claim(dir.path(), &ours, 1).expect("our own");
        for (cluster, id) in [(&ours, 2), (&other, 1)] {
            let error = claim(dir.path(), cluster, id).expect_err("not ours");
            assert!(error.to_string().contains("nothing was changed"), "{error}");
        }
    }
}
