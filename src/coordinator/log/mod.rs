//! The coordinator's durable log: records, vote, commit index and purge mark of one Raft member.
//!
//! A segmented write-ahead log with one flusher thread. Invariants: records are numbered without a
//! hole; what was reported as done survives any crash; a crash leaves a prefix of what was called,
//! in the order of the calls; a vote never goes back; damage to what was durable is found when the
//! log is opened and is never taken for a torn tail. It knows nothing of Raft beyond that, and the
//! bodies are opaque to it.
//!
//! | room | holds |
//! |---|---|
//! | `frame` | the bytes on the disk |
//! | `content` | what the log holds, in memory, and the cache of bodies |
//! | `offline` | reading a log without opening it |
//! | `options` | what callers give and get |
//! | `plan` | reading records |
//! | `stage` | what goes where: groups, segments |
//! | `flusher` | the writing thread |
//! | `recover` | reading a directory back |
//! | `start` | making it ready for writing |
//! | `shared` | what the handles and the flusher share |
//! | `watermark` | a second memory of how far it is durable |
//! | `disk` | the seam to the file system |

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

/// Longest body of a record in bytes. A longer one is refused with [`io::ErrorKind::InvalidInput`].
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Longest vote, commit index or purge mark in bytes. A longer one is refused with
/// [`io::ErrorKind::InvalidInput`].
pub const NOTE_BYTES_MAX: usize = 1 << 10;

/// A handle to a log; cheap to clone. The log is closed when the last handle is dropped.
///
/// Calls take effect, and reach the disk, in their order. Callbacks run on the flusher's thread,
/// in order: they must be short and must not call the log.
///
/// A failed write or sync is final: it and every later call answers an error, because what a disk
/// once failed to write it may later claim to have written. What was not reported as done by then
/// may or may not be there after a restart.
#[derive(Clone)]
pub struct Log(Arc<Owner>);

impl Log {
    /// Opens the log in `dir`, or makes a new one where there is none.
    ///
    /// On return everything it holds is durable. An empty directory is a new log: whether this
    /// coordinator should have one already is for the caller to know.
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

    /// As [`Self::open`], on any disk; `dir` only names it in messages.
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
            tracing::warn!(dir = %dir.display(), file, "removing unfinished or purged log segment");
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
            "opened log");
        Ok(log)
    }

    /// Adds records behind the last one. They are readable when this returns, and `done` is called
    /// when they, and everything called before, are durable. Appends that come while a flush is
    /// under way share the next one.
    ///
    /// Blocks, for a flush or so, while [`Options::queue_bytes`] are waiting already.
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

    /// Reads the records of `range` in order and without a hole, from memory or from the disk. Ends
    /// before the record that would bring the bodies over `bytes_max`, but not before the first.
    /// Empty when the first record of `range` does not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the disk has damaged a record, the disk's own errors, or
    /// the log has failed or is closed.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Record>> {
        let plan = self.0.shared.usable()?.plan(&range, bytes_max);
        plan.read().or_else(|error| {
            // A purge since may have let the file be used again: then the record is not damaged
            // but gone.
            let is_gone = self.0.shared.usable()?.content.first() > range.start;
            if is_gone { Ok(Vec::new()) } else { Err(error) }
        })
    }

    /// Drops all records above `index`, or all that are not purged for `None`. After a crash they
    /// may be there again, unless something called later was durable.
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

    /// Drops all records up to `index`, which may lie beyond the last, and remembers `mark`, at
    /// most [`NOTE_BYTES_MAX`]. Whole segments are freed once the purge is durable.
    ///
    /// A purge below the one before changes nothing.
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

    /// Replaces the vote, at most [`NOTE_BYTES_MAX`]; `done` is called when it, and everything
    /// called before, is durable.
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

    /// Replaces the commit index, at most [`NOTE_BYTES_MAX`]. It goes to the disk with the next
    /// flush; a crash may leave an older one, never one ahead of the records called before it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when it is too long; otherwise the log has failed or is
    /// closed. Nothing was set.
    pub fn set_committed(&self, committed: Bytes) -> io::Result<()> {
        check_note("the commit index", &committed)?;
        self.0.shared.usable()?.set_committed(committed);
        Ok(())
    }

    /// What the log holds.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.shared.state()
    }

    /// Flushes what waits, ends the flusher and lets the directory go. Other handles answer errors
    /// from now on. Must not be called from a callback.
    ///
    /// # Errors
    /// The failure that the log ended with; see [`Log`].
    pub fn close(self) -> io::Result<()> {
        self.0.close()
    }
}

/// The thread to wait for at the end; a simulated process has none but a task.
fn start_flusher(flusher: Flusher) -> io::Result<Option<JoinHandle<()>>> {
    if crate::task::process::Process::current().is_some() {
        drop(crate::task::spawn(flusher.simulate()));
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

/// What ends with the last handle.
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
            // A panic of the flusher has failed the log already.
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
        // Whoever wants to know closes by hand; every waiting callback hears of it in any case.
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
