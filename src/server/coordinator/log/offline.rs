//! Reads a stopped log without beginning a session or changing a byte.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Directory, Disk as _, DiskFile};
use super::plan::Plan;
use super::recover::{Recovered, recover};
use crate::coordinator::log::{OpenError, Record, State};

/// Log of a stopped coordinator; locked against starts until dropped.
pub struct Offline {
    recovered: Recovered,
    files: BTreeMap<u64, Arc<dyn DiskFile>>,
    _lock: Box<dyn Send + Sync>,
}

impl Offline {
    /// Reads the log in `dir`.
    ///
    /// # Errors
    /// See [`OpenError`]; a missing log is [`OpenError::Io`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        if !dir.is_dir() {
            return Err(io(io::ErrorKind::NotFound.into()));
        }
        let disk = Directory::open(dir).map_err(io)?;
        let lock = disk.lock().map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { dir: dir.to_owned() },
            _ => io(source),
        })?;
        let recovered = recover(&disk, dir)?;
        let files = recovered.segments.iter().map(|it| (it.number, Arc::clone(&it.file)));
        Ok(Self { files: files.collect(), recovered, _lock: lock })
    }

    /// Returns the state; `bytes_on_disk` counts segments only.
    #[must_use]
    pub fn state(&self) -> State {
        let content = &self.recovered.content;
        let (first, next) = (content.first(), content.next());
        State {
            purged: content.purged().cloned(),
            first: (first < next).then_some(first),
            last: (first < next).then(|| next - 1),
            vote: content.vote.clone(),
            committed: content.committed.clone(),
            bytes_on_disk: self.recovered.segments.iter().map(|it| it.bytes).sum(),
        }
    }

    /// Reads records of `range`; same as [`super::Log::read`].
    ///
    /// # Errors
    /// The disk's, or [`io::ErrorKind::InvalidData`] for a damaged record.
    pub fn read(&self, range: &Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let content = &self.recovered.content;
        let mut plan = Plan::default();
        let mut bytes = 0;
        for index in content.existing(range) {
            let place = content.place(index).expect("it exists");
            bytes += place.body_bytes as usize;
            if bytes > bytes_max && !plan.is_empty() {
                break;
            }
            plan.add(index, place, &self.files);
        }
        plan.read()
    }
}
