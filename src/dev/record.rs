//! `parade.json`: where everything of a running deployment is, for scripts and people.
//!
//! The file is there while its deployment runs, and every version of it that can be read is whole: it is
//! replaced, never written in place.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::private;
use serde::{Deserialize, Serialize};

/// Name of the file in the deployment's data directory.
pub const FILE: &str = "parade.json";

/// A deployment: what runs where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentRecord {
    /// Identity of the cluster.
    pub cluster_id: ClusterId,
    /// Its zones; the first is the one that was named first.
    pub zones: Vec<ZoneRecord>,
    /// URL at which the emulator of the distances between the zones takes orders; absent when they
    /// have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wan: Option<String>,
}

/// Why a file is not taken as the record of a deployment.
#[derive(Debug, thiserror::Error)]
pub enum NoRecord {
    /// It cannot be read.
    #[error("cannot read {}; is a deployment running there?", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is not the record of a deployment", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// One zone of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// Name of the zone.
    pub name: ZoneName,
    /// Connection string of its database's superuser, for the user who started the deployment.
    pub dsn: String,
    /// Base URLs of its API nodes, `http://127.0.0.1:…`.
    pub api: Vec<String>,
    /// Base URL of its coordinator.
    pub coordinator: String,
    /// Process ids. A killed process keeps its old id here until it runs again.
    pub pids: Pids,
}

/// Process ids of one zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// The postmaster.
    pub postgres: u32,
    /// The coordinator.
    pub coordinator: u32,
    /// The API nodes, in the order of [`ZoneRecord::api`].
    pub api: Vec<u32>,
}

impl DeploymentRecord {
    /// Reads the record of the deployment that runs on `data`.
    ///
    /// # Errors
    /// `NotFound` when none runs there; `InvalidData` when the file is not a record.
    pub fn read(data: &Path) -> io::Result<Self> {
        let text = fs::read(data.join(FILE))?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    /// Reads `path`: a `parade.json`, or that of a directory.
    ///
    /// # Errors
    /// When there is none, or it is not a record.
    pub fn find(path: &Path) -> Result<Self, NoRecord> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = fs::read(&file)
            .map_err(|source| NoRecord::Unreadable { file: file.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| NoRecord::Malformed { file, source })
    }

    /// Replaces the record in `data`.
    ///
    /// # Errors
    /// When the directory cannot be written; the old record is still there then.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        replace(&data.join(FILE), self)
    }

    /// The zone of this name.
    #[must_use]
    pub fn zone(&self, name: &str) -> Option<&ZoneRecord> {
        self.zones.iter().find(|zone| zone.name.as_str() == name)
    }
}

/// Writes `value` as JSON beside `file` and renames: a crash leaves the old or the new, whole.
pub(super) fn replace(file: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    private::replace(file, &text)
}

#[cfg(test)]
mod tests {
    use super::DeploymentRecord;

    /// Scripts outside this repository read this file; the text is the one they were promised.
    #[test]
    fn the_record_keeps_the_form_that_scripts_rely_on() {
        let text = r#"{"cluster_id":"0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7","zones":[{"name":"eu","dsn":"postgres://postgres@%2Fd%2Fzones%2Feu%2Fpg:23000/pghc","api":["http://127.0.0.1:23002"],"coordinator":"http://127.0.0.1:23001","pids":{"postgres":11,"coordinator":12,"api":[13]}}]}"#;
        let record: DeploymentRecord = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }
}
