//! State shared by a log's handles and its flusher, under one lock. No call waits for the disk,
//! except one that finds the queue full.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::content::{Cache, Content, Place};
use super::disk::DiskFile;
use super::error::Failure;
use super::frame::{At, Kind};
use super::plan::Plan;
use super::recover::Recovered;
use super::stage::{Chunk, Done, Group, Stage};
use super::start::Start;
use crate::coordinator::log::{Options, Record, State};

/// Lock, condition variables and options.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// A caller needs a flush.
    work: Condvar,
    /// The queue is empty.
    room: Condvar,
    /// Same as `work`, for a flusher that is a task.
    bell: tokio::sync::Notify,
    queue_bytes: usize,
}

/// State under the lock.
pub(super) struct Inner {
    pub(super) content: Content,
    pub(super) cache: Cache,
    stage: Stage,
    /// The commit index is newer than the staged one.
    is_committed_new: bool,
    /// The group must be flushed now.
    is_urgent: bool,
    is_closing: bool,
    failed: Option<Failure>,
    /// Records below this index are written to their files.
    written: u64,
    /// Value of `written` after the flush in flight.
    writing: u64,
    files: BTreeMap<u64, Arc<dyn DiskFile>>,
    bytes_on_disk: u64,
}

impl Inner {
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some(failure) => Err(failure.to_error()),
            None if self.is_closing => Err(Failure::closed().to_error()),
            None => Ok(()),
        }
    }

    /// Stages a frame.
    pub(super) fn push(&mut self, kind: Kind, number: u64, body: &[u8]) -> Place {
        self.stage.push(&self.content, kind, number, body)
    }

    /// Drops the records from `next` on; the stage already has the truncation.
    pub(super) fn truncate(&mut self, next: u64) {
        self.content.truncate(next);
        self.cache.truncate(next);
        // The records that reuse their numbers are not written yet.
        self.written = self.written.min(next);
        self.writing = self.writing.min(next);
    }

    /// Drops the records up to `index`, as a frame in `segment` states.
    pub(super) fn purge(&mut self, index: u64, mark: Bytes, segment: u64) {
        self.content.purge(index, mark);
        self.cache.purge(self.content.first());
        // Evaluated now: later calls may not be durable when this purge is.
        let oldest = self.content.oldest_segment().unwrap_or(segment);
        self.stage.group.drop_below = Some(oldest.min(segment));
    }

    pub(super) fn set_committed(&mut self, committed: Bytes) {
        self.content.committed = Some(committed);
        self.is_committed_new = true;
    }

    /// Collects the places and bodies of `range`.
    pub(super) fn plan(&self, range: &Range<u64>, bytes_max: usize) -> Plan {
        let mut plan = Plan::default();
        let mut bytes = 0;
        for index in self.content.existing(range) {
            let place = self.content.place(index).expect("it exists");
            bytes += place.body_bytes as usize;
            if bytes > bytes_max && !plan.is_empty() {
                break;
            }
            match self.cache.get(index) {
                Some(body) => plan.cached.push(Record { index, body: body.clone() }),
                None => plan.add(index, place, &self.files),
            }
        }
        plan
    }
}

impl Shared {
    pub(super) fn new(recovered: &Recovered, start: Start, options: Options) -> Self {
        let next = recovered.content.next();
        let files = recovered.segments.iter().map(|it| (it.number, Arc::clone(&it.file)));
        let inner = Inner {
            content: recovered.content.clone(),
            cache: Cache::new(next, options.cache_bytes),
            stage: Stage::new(start.session, start.end, options.segment_bytes),
            is_committed_new: false,
            is_urgent: false,
            is_closing: false,
            failed: None,
            written: next,
            writing: next,
            files: files.collect(),
            bytes_on_disk: 0,
        };
        Self {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            room: Condvar::new(),
            bell: tokio::sync::Notify::new(),
            queue_bytes: options.queue_bytes,
        }
    }

    /// Locks a log that has neither failed nor been closed.
    pub(super) fn usable(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.inner.lock();
        inner.check()?;
        Ok(inner)
    }

    /// Same as [`Self::usable`], once the queue is below its limit.
    pub(super) fn usable_with_room(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.usable()?;
        while inner.stage.group.bytes >= self.queue_bytes {
            // The queued frames may be waiting for a larger group.
            inner.is_urgent = true;
            self.ring();
            self.room.wait(&mut inner);
            inner.check()?;
        }
        Ok(inner)
    }

    /// Requests a flush of the group that calls `done`.
    pub(super) fn flush(&self, inner: &mut Inner, done: Option<Done>) {
        inner.stage.group.done.extend(done);
        inner.is_urgent = true;
        self.ring();
    }

    /// Wakes the flusher.
    fn ring(&self) {
        self.work.notify_one();
        self.bell.notify_one();
    }

    /// Waits for a group to flush; `None` once the log is closed and everything is flushed.
    pub(super) fn take(&self) -> Option<Group> {
        let mut inner = self.inner.lock();
        while !inner.is_urgent && !inner.is_closing {
            self.work.wait(&mut inner);
        }
        self.take_from(&mut inner)
    }

    /// Same as [`Self::take`], without blocking the thread.
    pub(super) async fn next(&self) -> Option<Group> {
        loop {
            {
                let mut inner = self.inner.lock();
                if inner.is_urgent || inner.is_closing {
                    return self.take_from(&mut inner);
                }
            }
            self.bell.notified().await;
        }
    }

    fn take_from(&self, inner: &mut Inner) -> Option<Group> {
        inner.is_urgent = false;
        if inner.is_committed_new
            && let Some(committed) = inner.content.committed.clone()
        {
            inner.push(Kind::Committed, 0, &committed);
            inner.is_committed_new = false;
        }
        inner.writing = inner.content.next();
        let group = inner.stage.take();
        self.room.notify_all();
        (!group.is_empty() || !inner.is_closing).then_some(group)
    }

    /// Records that the last group is written.
    pub(super) fn written(&self) {
        let mut inner = self.inner.lock();
        inner.written = inner.writing;
        let written = inner.written;
        inner.cache.evict(written);
    }

    /// Ends the log with its first failure and calls every waiting callback.
    pub(super) fn fail(&self, failure: Failure) {
        let mut inner = self.inner.lock();
        let failure = inner.failed.get_or_insert(failure).clone();
        let group = inner.stage.take();
        drop(inner);
        self.room.notify_all();
        group.done.into_iter().for_each(|done| done(Err(failure.to_error())));
    }

    pub(super) fn close(&self) {
        self.inner.lock().is_closing = true;
        self.work.notify_all();
        self.bell.notify_one();
        self.room.notify_all();
    }

    pub(super) fn failure(&self) -> io::Result<()> {
        self.inner.lock().failed.as_ref().map_or(Ok(()), |failure| Err(failure.to_error()))
    }

    pub(super) fn state(&self) -> State {
        let inner = self.inner.lock();
        let (first, next) = (inner.content.first(), inner.content.next());
        State {
            purged: inner.content.purged().cloned(),
            first: (first < next).then_some(first),
            last: (first < next).then(|| next - 1),
            vote: inner.content.vote.clone(),
            committed: inner.content.committed.clone(),
            bytes_on_disk: inner.bytes_on_disk,
        }
    }

    /// Returns the mark of the next group while that group is empty.
    pub(super) fn idle_mark(&self) -> Option<Chunk> {
        let inner = self.inner.lock();
        inner.stage.group.chunks.is_empty().then(|| inner.stage.mark())
    }

    /// Returns the frame that seals a segment whose frames end at `at`.
    pub(super) fn seal(&self, at: At) -> Chunk {
        self.inner.lock().stage.seal(at)
    }

    pub(super) fn add_file(&self, segment: u64, file: Arc<dyn DiskFile>) {
        self.inner.lock().files.insert(segment, file);
    }

    pub(super) fn file(&self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        self.inner.lock().files.get(&segment).cloned()
    }

    /// Drops the files of segments below `segment`.
    pub(super) fn drop_files(&self, segment: u64) {
        let mut inner = self.inner.lock();
        inner.files = inner.files.split_off(&segment);
    }

    pub(super) fn set_bytes_on_disk(&self, bytes: u64) {
        self.inner.lock().bytes_on_disk = bytes;
    }
}
