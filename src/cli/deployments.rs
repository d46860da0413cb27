//! The deployments that run on this machine, by the records in their directories.

use std::path::{Path, PathBuf};

use pghc_dev::deployment::Supervisor;
use pghc_dev::record::DeploymentRecord;

/// The record of the deployment on `data`.
///
/// # Errors
/// A sentence for people.
pub(super) fn deployment(data: &Path) -> Result<DeploymentRecord, String> {
    DeploymentRecord::read(data).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let data = data.display();
            format!("no deployment runs on {data}; start one: pghc dev --data {data}")
        }
        _ => format!("{}/parade.json is not readable: {error}", data.display()),
    })
}

/// The record of the only deployment that runs in a temporary directory.
///
/// # Errors
/// A sentence for people: there is none, or there are several.
pub(super) fn only_deployment() -> Result<DeploymentRecord, String> {
    let mut running: Vec<PathBuf> = temporary_deployments();
    match (running.pop(), running.is_empty()) {
        (Some(data), true) => deployment(&data),
        (None, _) => Err("no cluster was found".to_owned()),
        (Some(_), false) => Err("several deployments are running here".to_owned()),
    }
}

/// Temporary directories in which `pghc dev` runs without `--data`.
fn temporary_deployments() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return Vec::new() };
    let is_deployment = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        // A killed deployment leaves its record behind.
        let runs = || matches!(Supervisor::read(path), Ok(Some(supervisor)) if supervisor.runs());
        name.is_some_and(|name| name.starts_with("pghc-dev-")) && runs()
    };
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_deployment).collect()
}
