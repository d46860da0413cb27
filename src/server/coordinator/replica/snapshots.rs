//! Stores the coordinator's single snapshot file beside the log.
//!
//! A write is a temporary file, fsync, rename, fsync of the directory. A crash leaves the old or
//! the new file whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::coordinator::consensus::codec::{decode, encode};
use crate::coordinator::consensus::type_config::{LogId, Snapshot, SnapshotMeta};
use crate::coordinator::log::disk::{Directory, Disk};

const FILE: &str = "snapshot";
const TEMPORARY: &str = "snapshot.new";
const UNREADABLE: &str = "snapshot.damaged";
const MAGIC: &[u8; 8] = b"pghcsnp1";

/// Advice for an unusable snapshot.
const REPLACE_HINT: &str = "keep this coordinator stopped while the others go on, and replace it by a new \
                       one with an empty directory (pghc members replace)";

/// Location of the snapshot; clones share it.
#[derive(Clone)]
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    /// Path, for messages.
    path: PathBuf,
    /// Newest written snapshot; the lock serialises writes.
    newest: Arc<Mutex<Option<LogId>>>,
}

impl Snapshots {
    /// Uses `disk`; `dir` is for messages only.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, path: dir.join(FILE), newest: Arc::default() }
    }

    /// Uses the directory `dir` of this machine.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self::new(Arc::new(Directory::open(dir)?), dir))
    }

    /// Replaces the snapshot; durable on return. A snapshot that is older than the present one is
    /// not written, since an install was faster.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let mut newest = self.newest.lock();
        if *newest > meta.last_log_id {
            return Ok(());
        }
        let last_log_id = meta.last_log_id;
        let meta = encode(meta);
        let meta_len = u32::try_from(meta.len()).map_err(io::Error::other)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&meta);
        sum.update(state);
        // Leftover of a crash.
        match self.disk.remove(TEMPORARY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(TEMPORARY)?;
        let parts =
            [MAGIC, &sum.finalize().to_be_bytes()[..], &meta_len.to_be_bytes(), &meta, state];
        let mut offset = 0;
        for part in parts {
            file.write_at(part, offset)?;
            offset += part.len() as u64;
        }
        file.sync()?;
        // Otherwise a reordering file system may rename an earlier attempt's leftover.
        self.disk.sync_dir()?;
        self.disk.rename(TEMPORARY, FILE)?;
        self.disk.sync_dir()?;
        *newest = last_log_id;
        Ok(())
    }

    /// Checks the snapshot beside a log that is purged up to index `purged`. A damaged snapshot is
    /// set aside if the log begins at its first entry, because the state can be recomputed.
    ///
    /// # Errors
    /// `InvalidData` if the state cannot be computed: the coordinator must not start. Nothing was
    /// changed then.
    pub(crate) fn check(&self, purged: Option<u64>) -> io::Result<()> {
        let reaches = match (self.load(), purged) {
            (Ok(snapshot), _) => snapshot.and_then(|it| it.meta.last_log_id).map(|it| it.index),
            (Err(error), None) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, aside = UNREADABLE,
                    "damaged snapshot set aside; the log holds every entry, so nothing is \
                     lost; check this disk");
                self.disk.rename(FILE, UNREADABLE)?;
                return self.disk.sync_dir();
            }
            (Err(error), _) => return Err(error),
        };
        match purged {
            Some(purged) if reaches < Some(purged) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the log is purged up to entry {purged} but {} only reaches {}: writes between \
                     them are lost here, which the others have; {REPLACE_HINT}",
                    self.path.display(),
                    reaches.map_or("nothing".to_owned(), |index| format!("entry {index}")),
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Returns the present snapshot, if any.
    ///
    /// # Errors
    /// `InvalidData` if the file is damaged: the coordinator must not use it.
    pub(crate) fn load(&self) -> io::Result<Option<Snapshot>> {
        let file = match self.disk.open(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        let bytes = Bytes::from(bytes);
        let damaged = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is damaged ({what}), and the log does not reach back to its start; \
                     nothing was changed; {REPLACE_HINT}",
                    self.path.display()
                ),
            )
        };
        if bytes.len() < 16 || &bytes[..8] != MAGIC {
            return Err(damaged("its header is not a snapshot's"));
        }
        let number = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if number(8) != crc32fast::hash(&bytes[16..]) {
            return Err(damaged("its checksum does not match"));
        }
        let state_at = 16 + number(12) as usize;
        if state_at > bytes.len() {
            return Err(damaged("it is cut"));
        }
        let meta = decode(&bytes[16..state_at])?;
        // The checksum does not cover this length, and the decoder accepts trailing bytes.
        if encode(&meta).len() != state_at - 16 {
            return Err(damaged("its header is not a snapshot's"));
        }
        Ok(Some(Snapshot { meta, snapshot: bytes.slice(state_at..) }))
    }
}

#[cfg(test)]
mod tests;
