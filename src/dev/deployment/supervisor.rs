//! The process that has a deployment's directory: a lock, and `supervisor.json`, which names the process.
//!
//! The kernel frees the lock when the process dies. The file is valid only while the lock is taken
//! and the named process has the named start time, so a reused process number is never signalled.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_runtime::private;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Error;
use crate::postgres::make_directory;
use crate::process::identity;
use crate::record::replace;

const LOCK: &str = "supervisor.lock";
const FILE: &str = "supervisor.json";

/// Longest wait for the lock of a process that has not written its name yet, or whose number is free again.
const UNNAMED_MAX: Duration = Duration::from_secs(3);
/// Longest wait for the lock of a process that runs: a killed process runs until the kernel has taken it apart.
const DYING_MAX: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(25);

/// Content of `supervisor.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervisor {
    /// Process id.
    pub pid: u32,
    /// Start time of the process, which tells it from a later process with the same number.
    started: String,
    /// Whether its deployment takes writes, or did.
    pub ready: bool,
    /// Why it takes no writes until a person acts: zones that have halted. `None` while it may come up.
    pub halted: Option<String>,
}

impl Supervisor {
    /// The one that has `data`, or had it and was killed.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read. A damaged file counts as absent.
    pub fn read(data: &Path) -> Result<Option<Self>, Error> {
        let file = data.join(FILE);
        match fs::read(&file) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", file)(error)),
        }
    }

    /// Whether that process runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        identity(self.pid).is_some_and(|started| started == self.started)
    }
}

/// A directory that this process has until the value is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    data: PathBuf,
    own: Mutex<Supervisor>,
    _lock: File,
}

impl Taken {
    fn new(data: PathBuf, lock: File) -> Result<Self, Error> {
        let pid = std::process::id();
        let started = identity(pid).unwrap_or_default();
        let own = Supervisor { pid, started, ready: false, halted: None };
        let taken = Self { data, own: Mutex::new(own), _lock: lock };
        taken.write(&taken.own.lock())?;
        Ok(taken)
    }

    /// The directory, without symbolic links.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Lets others know that the deployment takes writes.
    pub(super) fn tell_ready(&self) -> Result<(), Error> {
        let mut own = self.own.lock();
        if own.ready {
            return Ok(());
        }
        (own.ready, own.halted) = (true, None);
        self.write(&own)
    }

    /// Lets others know that the deployment runs and that a person must act before it takes writes.
    pub(super) fn tell_halted(&self, why: &str) -> Result<(), Error> {
        let mut own = self.own.lock();
        own.halted = Some(why.to_owned());
        self.write(&own)
    }

    pub(super) fn has_halted(&self) -> bool {
        self.own.lock().halted.is_some()
    }

    fn write(&self, own: &Supervisor) -> Result<(), Error> {
        let file = self.data.join(FILE);
        replace(&file, own).map_err(Error::io("write", file))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(self.data.join(FILE)) {
            tracing::warn!(%error, "supervisor.json removal failed");
        }
    }
}

/// Removes the name of a supervisor that has died. The caller holds the lock.
pub(super) fn forget(data: &Path) -> Result<(), Error> {
    let file = data.join(FILE);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", file)(error))
        }
        _ => Ok(()),
    }
}

/// Creates the data directory if there is none and takes it for this process.
pub(super) async fn take(data: &Path) -> Result<Taken, Error> {
    make_directory(data).map_err(|source| Error::Directory { data: data.to_owned(), source })?;
    let data = data.canonicalize().map_err(Error::io("find", data))?;
    let lock = free(&data).await?;
    Taken::new(data, lock)
}

/// The lock, waited for as long as its holder may be dying.
async fn free(data: &Path) -> Result<File, Error> {
    let began = Instant::now();
    loop {
        if let Some(lock) = try_lock(data)? {
            return Ok(lock);
        }
        let holder = Supervisor::read(data)?.filter(Supervisor::runs);
        let longest = if holder.is_some() { DYING_MAX } else { UNNAMED_MAX };
        if began.elapsed() >= longest {
            let supervisor = holder.map(|it| it.pid);
            return Err(Error::AlreadyRuns { data: data.to_owned(), supervisor });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Creates the directories of a deployment and of its logs.
///
/// # Errors
/// [`Error::AlreadyRuns`] when one runs there; [`Error::Directory`], [`Error::Io`].
pub async fn prepare(data: &Path) -> Result<(), Error> {
    make_directory(data).map_err(|source| Error::Directory { data: data.to_owned(), source })?;
    drop(free(data).await?);
    let logs = data.join("log");
    private::create_dir_all(&logs).map(drop).map_err(Error::io("create", logs))
}

/// The lock, until the file is dropped; `None` while another process has it.
pub(super) fn try_lock(data: &Path) -> Result<Option<File>, Error> {
    let path = data.join(LOCK);
    let lock = private::open(&path).map_err(Error::io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Supervisor, free, take};
    use crate::deployment::Error;

    #[tokio::test]
    async fn directory_is_locked_by_one_supervisor() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("new/deployment");
        let taken = take(&data).await.unwrap();
        let known = Supervisor::read(&data).unwrap().unwrap();
        assert!(known.pid == std::process::id() && known.runs() && !known.ready);
        assert!(matches!(take(&data).await, Err(Error::AlreadyRuns { .. })));
        assert!(matches!(free(&data).await, Err(Error::AlreadyRuns { .. })));
        taken.tell_ready().unwrap();
        assert!(Supervisor::read(&data).unwrap().unwrap().ready);
        drop(taken);
        assert_eq!(Supervisor::read(&data).unwrap(), None);
        assert!(take(&data).await.is_ok());
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let own = Supervisor {
            pid: std::process::id(),
            started: "1".to_owned(),
            ready: true,
            halted: None,
        };
        assert!(!own.runs());
    }
}
