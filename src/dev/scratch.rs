//! A directory that lives as long as a value.
//!
//! Other users may pass through it (mode 0711) but not list it: as root we drop PostgreSQL to
//! another user, and that user must reach its data directory below.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

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
        let name = format!("pghc-{purpose}-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o711).create(&path)?;
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
            tracing::warn!(path = %self.path.display(), %error, "temporary directory stays behind");
        }
    }
}
