//! A directory that lives as long as a value.
//!
//! The directory is private. Under root, PostgreSQL runs as another user, and its server opens the
//! data directory for that user's group.

use std::path::{Path, PathBuf};
use std::{fs, io};

use pghc_runtime::private;

/// A new empty directory under the system's temporary directory, removed with all it holds when
/// this value is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates the directory `pghc-PURPOSE-…`.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new(purpose: &str) -> io::Result<Self> {
        let name = format!("pghc-{purpose}-{:012x}", rand::random::<u64>() >> 16);
        let path = std::env::temp_dir().join(name);
        private::create_dir(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "temporary directory not removed");
        }
    }
}
