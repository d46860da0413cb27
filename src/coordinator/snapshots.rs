//! The coordinator's one snapshot file, written beside the log: temporary file, fsync, rename,
//! fsync of the directory. A crash at any point leaves the old or the new one whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::codec::{decode, encode};
use super::type_config::{LogId, Snapshot, SnapshotMeta};

const MAGIC: &[u8; 8] = b"pghcsnp1";

/// Where the snapshot is. Clones are the same place.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    dir: PathBuf,
    /// One is written at a time; the newest that was.
    newest: Arc<Mutex<Option<LogId>>>,
}

impl Snapshots {
    /// Uses `dir`, which exists.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, newest: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("snapshot")
    }

    /// Writes a snapshot in the place of the one before it; durable when it returns. One that is
    /// older than what is there already is not written: a build that was overtaken by an install.
    pub(super) fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
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
        let temporary = self.dir.join("snapshot.new");
        let mut file = File::create(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(&sum.finalize().to_be_bytes())?;
        file.write_all(&meta_len.to_be_bytes())?;
        file.write_all(&meta)?;
        file.write_all(state)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.dir)?.sync_all()?;
        *newest = last_log_id;
        Ok(())
    }

    /// The current snapshot, if there is one.
    ///
    /// # Errors
    /// `InvalidData` if the file is damaged: the coordinator must not start on it.
    pub(super) fn load(&self) -> io::Result<Option<Snapshot>> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is damaged ({what}); the data of this coordinator cannot be trusted, \
                     keep it stopped while the others go on",
                    self.path().display()
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
        Ok(Some(Snapshot { meta, snapshot: bytes.slice(state_at..) }))
    }
}

#[cfg(test)]
mod tests {
    use super::{SnapshotMeta, Snapshots};

    #[test]
    fn a_snapshot_is_read_back_whole_and_a_flipped_byte_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let snapshots = Snapshots::new(dir.path().to_owned());
        assert!(snapshots.load().expect("no file is fine").is_none());
        for state in [&b"old"[..], b"newer"] {
            snapshots.save(&SnapshotMeta::default(), state).expect("saved");
            let read = snapshots.load().expect("readable").expect("there");
            assert_eq!(&read.snapshot[..], state);
        }
        let whole = std::fs::read(snapshots.path()).expect("the file");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(snapshots.path(), &flipped).expect("written");
            assert!(snapshots.load().is_err(), "byte {at}");
        }
    }
}
