//! Durable log of one Raft member: records, vote, commit index and purge mark.
//!
//! A segmented write-ahead log with one flusher thread. Invariants:
//!
//! - Records are numbered without a hole, and a vote never goes back.
//! - An operation that was reported as done survives any crash.
//! - A crash leaves a prefix of the calls, in their order.
//! - Damage to durable bytes is found at open and never taken for a torn tail.
//!
//! The log knows nothing else of Raft, and bodies are opaque to it.
//!
//! | module | holds |
//! |---|---|
//! | `frame` | bytes on the disk |
//! | `content` | content in memory, and the cache of bodies |
//! | `offline` | reading a log without opening it |
//! | `options` | options and results of the public calls |
//! | `plan` | reading records |
//! | `stage` | layout of groups and segments |
//! | `flusher` | writing thread |
//! | `recover` | reading a directory back |
//! | `start` | preparing a recovered directory for writing |
//! | `shared` | state shared by handles and flusher |
//! | `watermark` | second record of the durable end |
//! | `disk` | seam to the file system |

mod content;
pub mod disk;
mod error;
mod flusher;
mod frame;
#[cfg(debug_assertions)]
pub(super) mod fuzzing;
mod offline;
mod options;
mod plan;
mod recover;
mod shared;
mod stage;
mod start;
#[cfg(test)]
pub(super) mod tests;
mod watermark;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

use self::disk::{Directory, Disk};
pub use self::error::OpenError;
use self::flusher::Flusher;
use self::frame::Kind;
pub use self::offline::Offline;
pub use self::options::{Options, Record, State};
use self::recover::recover;
use self::shared::Shared;
pub use self::stage::Done;
use self::watermark::Watermark;

/// Longest body of a record in bytes; longer ones fail with [`io::ErrorKind::InvalidInput`].
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Longest vote, commit index or purge mark in bytes; longer ones fail with
/// [`io::ErrorKind::InvalidInput`].
pub const NOTE_BYTES_MAX: usize = 1 << 10;

/// A handle to a log; cheap to clone. The log is closed when the last handle is dropped.
///
/// Calls take effect, and reach the disk, in their order. Callbacks run on the flusher's thread,
/// in order: they must be short and must not call the log.
///
/// A failed write or sync is final: this and every later call returns an error, because a disk may
/// later claim to hold bytes that it failed to write. Unreported operations may or may not survive
/// a restart.
#[derive(Clone)]
pub struct Log(Arc<Owner>);

impl Log {
    /// Opens the log in `dir`, or creates one.
    ///
    /// On return the whole content is durable. An empty directory is a new log; the caller checks
    /// whether one should exist.
    ///
    /// # Errors
    /// See [`OpenError`].
    ///
    /// # Panics
    /// If an option is outside its limits.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let disk =
            Directory::open(dir).map_err(|source| OpenError::Io { dir: dir.to_owned(), source })?;
        Self::open_on(Arc::new(disk), dir, options)
    }

    /// Same as [`Self::open`], on any disk; `dir` is for messages only.
    ///
    /// # Errors
    /// See [`OpenError`].
    ///
    /// # Panics
    /// If an option is outside its limits.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self, OpenError> {
        let Options { segment_bytes, grow_bytes, queue_bytes, .. } = options;
        assert!((4 << 10..=1 << 30).contains(&segment_bytes), "segment_bytes {segment_bytes}");
        assert!((4 << 10..=segment_bytes).contains(&grow_bytes), "grow_bytes {grow_bytes}");
        assert!(queue_bytes > 0, "queue_bytes {queue_bytes}");
        let io = |source| OpenError::Io { dir: dir.to_owned(), source };
        let lock = disk.lock().map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { dir: dir.to_owned() },
            _ => io(source),
        })?;
        let mut recovered = recover(disk.as_ref(), dir)?;
        for file in &recovered.litter {
            tracing::warn!(dir = %dir.display(), file, "unfinished or purged log segment removed");
        }
        let start = start::start(disk.as_ref(), &mut recovered).map_err(io)?;
        let watermark = Watermark::start(disk.as_ref(), start.end).map_err(io)?;
        let spares = start::spares(disk.as_ref(), &recovered.spares).map_err(io)?;
        let newest = recovered.segments.last().expect("starting leaves a segment");
        let sealed = recovered.segments.iter().filter(|it| it.number != newest.number);
        let flusher = Flusher {
            disk,
            segment: newest.number,
            file: Arc::clone(&newest.file),
            file_bytes: newest.bytes,
            grow_bytes,
            sealed_bytes: sealed.map(|it| (it.number, it.bytes)).collect(),
            spares,
            watermark,
            shared: Arc::new(Shared::new(&recovered, start, options)),
        };
        flusher.shared.set_bytes_on_disk(flusher.bytes_on_disk());
        let shared = Arc::clone(&flusher.shared);
        let flusher = Mutex::new(start_flusher(flusher).map_err(io)?);
        let log = Self(Arc::new(Owner { shared, flusher, lock: Mutex::new(Some(lock)) }));
        let State { first, last, bytes_on_disk, .. } = log.state();
        tracing::info!(dir = %dir.display(), session = start.session, first, last, bytes_on_disk,
            "log opened");
        Ok(log)
    }

    /// Appends records. They are readable on return; `done` is called once they, and all earlier
    /// calls, are durable. Appends during a flush share the next one.
    ///
    /// Blocks for about one flush while [`Options::queue_bytes`] are queued.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when a body is too long; otherwise the log has failed or is
    /// closed. Nothing was appended and `done` is never called.
    ///
    /// # Panics
    /// If the records do not continue the log: a hole would be served as agreed history.
    pub fn append(&self, records: Vec<Record>, done: Done) -> io::Result<()> {
        if let Some(long) = records.iter().find(|record| record.body.len() > BODY_BYTES_MAX) {
            return Err(too_long("the record's body", long.body.len(), BODY_BYTES_MAX));
        }
        let mut inner = self.0.shared.usable_with_room()?;
        for (record, next) in records.iter().zip(inner.content.next()..) {
            assert_eq!(record.index, next, "records are appended without a hole");
        }
        for Record { index, body } in records {
            let place = inner.push(Kind::Record, index, &body);
            inner.content.append(index, place);
            inner.cache.append(body);
        }
        self.0.shared.flush(&mut inner, Some(done));
        Ok(())
    }

    /// Reads the records of `range` in order and without a hole, from memory or disk. Ends before
    /// the record that would exceed `bytes_max`, but returns at least the first. Empty if the first
    /// record does not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for a damaged record, the disk's own errors, or the failure
    /// of a failed or closed log.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let plan = self.0.shared.usable()?.plan(&range, bytes_max);
        plan.read().or_else(|error| {
            // A purge in the meantime may have recycled the file: the record is gone, not damaged.
            let is_gone = self.0.shared.usable()?.content.first() > range.start;
            if is_gone { Ok(Vec::new()) } else { Err(error) }
        })
    }

    /// Drops all records above `index`, or every unpurged record for `None`. A crash may restore
    /// them, unless a later call became durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when `index` is below the purged one; otherwise the log has
    /// failed or is closed. Nothing was dropped.
    pub fn truncate_after(&self, index: Option<u64>) -> io::Result<()> {
        let mut inner = self.0.shared.usable()?;
        let first = inner.content.first();
        let next = index.map_or(first, |index| index.saturating_add(1));
        if next < first {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot keep less than the purged records: next {next}, first {first}"),
            ));
        }
        if next < inner.content.next() {
            inner.push(Kind::Truncate, next, &[]);
            inner.truncate(next);
        }
        Ok(())
    }

    /// Drops all records up to `index`, which may exceed the last one, and stores `mark`, at most
    /// [`NOTE_BYTES_MAX`] long. Whole segments are freed once the purge is durable.
    ///
    /// A purge below the previous one changes nothing.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when the mark is too long; otherwise the log has failed or is
    /// closed. Nothing was dropped.
    pub fn purge_to(&self, index: u64, mark: Bytes) -> io::Result<()> {
        check_note("the purge mark", &mark)?;
        let mut inner = self.0.shared.usable()?;
        if inner.content.purged().is_none_or(|(purged, _)| index > *purged) {
            let place = inner.push(Kind::Purge, index, &mark);
            inner.purge(index, mark, place.segment);
            self.0.shared.flush(&mut inner, None);
        }
        Ok(())
    }

    /// Replaces the vote, at most [`NOTE_BYTES_MAX`] long; `done` is called once the vote, and all
    /// earlier calls, are durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when the vote is too long; otherwise the log has failed or is
    /// closed. Nothing was set and `done` is never called.
    pub fn set_vote(&self, vote: Bytes, done: Done) -> io::Result<()> {
        check_note("the vote", &vote)?;
        let mut inner = self.0.shared.usable_with_room()?;
        inner.push(Kind::Vote, 0, &vote);
        inner.content.vote = Some(vote);
        self.0.shared.flush(&mut inner, Some(done));
        Ok(())
    }

    /// Replaces the commit index, at most [`NOTE_BYTES_MAX`] long. It is written with the next
    /// flush; a crash may leave an older index, never one ahead of the earlier records.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the index is too long; otherwise the log has failed or is
    /// closed. Nothing was set.
    pub fn set_committed(&self, committed: Bytes) -> io::Result<()> {
        check_note("the commit index", &committed)?;
        self.0.shared.usable()?.set_committed(committed);
        Ok(())
    }

    /// Returns the state of the log.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.shared.state()
    }

    /// Flushes queued operations, ends the flusher and unlocks the directory. Other handles return
    /// errors from now on. Must not be called from a callback.
    ///
    /// # Errors
    /// The failure that the log ended with; see [`Log`].
    pub fn close(self) -> io::Result<()> {
        self.0.close()
    }
}

/// Starts the flusher's thread; a simulated process gets a task instead.
fn start_flusher(flusher: Flusher) -> io::Result<Option<JoinHandle<()>>> {
    if pghc_runtime::task::process::Process::current().is_some() {
        drop(pghc_runtime::task::spawn(flusher.simulate()));
        return Ok(None);
    }
    let thread = std::thread::Builder::new().name("log-flusher".to_owned());
    thread.spawn(|| flusher.run()).map(Some)
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Log").field(&self.state()).finish()
    }
}

/// Closes the log with the last handle.
struct Owner {
    shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl Owner {
    fn close(&self) -> io::Result<()> {
        let mut flusher = self.flusher.lock();
        self.shared.close();
        let result = match flusher.take() {
            // A panic of the flusher has already failed the log.
            Some(flusher) => {
                let _ = flusher.join();
                self.shared.failure()
            }
            None => Ok(()),
        };
        self.lock.lock().take();
        result
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Callers that need the result call `close`; every waiting callback is called in any case.
        let _ = self.close();
    }
}

fn check_note(what: &str, note: &Bytes) -> io::Result<()> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(too_long(what, note.len(), NOTE_BYTES_MAX));
    }
    Ok(())
}

fn too_long(what: &str, bytes: usize, bytes_max: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{what} has {bytes} bytes, over the limit of {bytes_max}; nothing was written"),
    )
}
