//! Thread that writes the log in groups.
//!
//! It takes the group that gathered during the previous flush, writes it, syncs once and calls
//! every callback. Invariants: one flush is in flight; a failed write or sync is the last one,
//! since the kernel may drop unwritten pages and report success later; no callback reports success
//! before the sync has returned. The thread holds no lock during disk calls.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use pghc_runtime::mutation::{self, Mutant};

use super::disk::{Disk, DiskFile};
use super::error::Failure;
use super::frame::At;
use super::recover::{segment_name, spare_name};
use super::shared::Shared;
use super::stage::{Chunk, Group};
use super::start::SPARES_MAX;
use super::watermark::Watermark;

/// Zeros of one write that grows a file.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// State of the flusher thread.
pub(super) struct Flusher {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<dyn Disk>,
    /// Number and file of the current segment.
    pub(super) segment: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Size of that file: writes below it change no size and cost no journal.
    pub(super) file_bytes: u64,
    pub(super) grow_bytes: u64,
    /// Sizes of all segments except the current one.
    pub(super) sealed_bytes: BTreeMap<u64, u64>,
    /// Names and sizes of files for reuse.
    pub(super) spares: Vec<(String, u64)>,
    pub(super) watermark: Watermark,
}

/// Fails the log if the flusher panics, so that no caller waits forever.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::of_flusher());
        }
    }
}

impl Flusher {
    /// Flushes until the log is closed or fails.
    pub(super) fn run(mut self) {
        let _guard = FailOnPanic(Arc::clone(&self.shared));
        while let Some(group) = self.shared.take() {
            let written = self.write(&group).and_then(|()| self.sync(&group));
            if !self.finish(group, written) {
                return;
            }
        }
        self.end();
    }

    /// Same as [`Self::run`], as a task of a simulated process, which has no extra thread.
    pub(super) async fn simulate(mut self) {
        while let Some(group) = self.shared.next().await {
            let mut written = self.write(&group);
            if written.is_ok() {
                // A crash in the meantime may keep or lose written, unsynced bytes.
                let takes = self.disk.sync_takes();
                if !takes.is_zero() {
                    // A sleep of zero would be rounded up to the timer's grain.
                    tokio::time::sleep(takes).await;
                }
                written = self.sync(&group);
            }
            if !self.finish(group, written) {
                return;
            }
        }
        self.end();
    }

    /// Calls a group's callbacks; returns whether the log goes on.
    fn finish(&mut self, mut group: Group, written: io::Result<()>) -> bool {
        let done = std::mem::take(&mut group.done);
        match written {
            Ok(()) => {
                self.shared.written();
                done.into_iter().for_each(|done| done(Ok(())));
            }
            Err(error) => {
                let failure = Failure::of_disk(&error);
                tracing::error!(%error, segment = self.segment, "log write failed");
                self.shared.fail(failure.clone());
                done.into_iter().for_each(|done| done(Err(failure.to_error())));
                return false;
            }
        }
        if let Err(error) = self.tidy(&group) {
            tracing::error!(%error, segment = self.segment, "log write failed");
            self.shared.fail(Failure::of_disk(&error));
            return false;
        }
        true
    }

    fn end(self) {
        // On close the last mark is synced instead of waiting for the kernel.
        if let Err(error) = self.file.sync().and_then(|()| self.watermark.sync()) {
            tracing::error!(%error, segment = self.segment, "log write failed");
            self.shared.fail(Failure::of_disk(&error));
        }
    }

    /// Writes a group.
    fn write(&mut self, group: &Group) -> io::Result<()> {
        for chunk in &group.chunks {
            if chunk.at.segment != self.segment {
                self.file.sync()?;
                self.begin_segment(chunk.at.segment)?;
            }
            self.write_chunk(chunk)?;
        }
        Ok(())
    }

    /// Makes a written group durable.
    fn sync(&mut self, group: &Group) -> io::Result<()> {
        let Some(last) = group.chunks.last() else { return Ok(()) };
        if mutation::is_active(Mutant::SyncSkipped) {
            return Ok(());
        }
        self.file.sync()?;
        let offset = last.at.offset + last.bytes.len() as u64;
        self.watermark.note(At { offset, ..last.at })
    }

    /// Removes and recycles segments after a durable group; a crash may interrupt it anywhere.
    fn tidy(&mut self, group: &Group) -> io::Result<()> {
        for pair in group.chunks.windows(2) {
            let offset = pair[0].at.offset + pair[0].bytes.len() as u64;
            let seal = self.shared.seal(At { segment: pair[0].at.segment, offset });
            if let Some(file) = self.shared.file(seal.at.segment) {
                file.write_at(&seal.bytes, seal.at.offset)?;
            }
        }
        if let Some(below) = group.drop_below {
            self.drop_purged(below)?;
        }
        // Under load the mark travels with the next group; when idle it is written at once.
        if let Some(mark) = self.shared.idle_mark() {
            self.write_chunk(&mark)?;
        }
        self.shared.set_bytes_on_disk(self.bytes_on_disk());
        Ok(())
    }

    /// Begins segment `number`, in a recycled file if there is one.
    fn begin_segment(&mut self, number: u64) -> io::Result<()> {
        let name = segment_name(number);
        let (file, file_bytes) = match self.spares.pop() {
            Some((spare, bytes)) => {
                self.disk.rename(&spare, &name)?;
                (self.disk.open(&name)?, bytes)
            }
            None => (self.disk.create(&name)?, 0),
        };
        // Synced now: a group may begin two segments, and after a crash the second must not exist
        // without the first.
        self.disk.sync_dir()?;
        self.sealed_bytes.insert(self.segment, self.file_bytes);
        self.shared.add_file(number, Arc::clone(&file));
        (self.segment, self.file, self.file_bytes) = (number, file, file_bytes);
        Ok(())
    }

    /// Writes into the current segment; grows the file in larger steps, so that the next writes
    /// change no size.
    fn write_chunk(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.file.write_at(&chunk.bytes, chunk.at.offset)?;
        let end = chunk.at.offset + chunk.bytes.len() as u64;
        if end > self.file_bytes {
            self.file_bytes = end.next_multiple_of(self.grow_bytes);
            let mut at = end;
            while at < self.file_bytes {
                let bytes = (self.file_bytes - at).min(ZEROS.len() as u64);
                let bytes = usize::try_from(bytes).expect("it is at most the length of an array");
                self.file.write_at(&ZEROS[..bytes], at)?;
                at += bytes as u64;
            }
        }
        Ok(())
    }

    /// Removes the segments below `below`, oldest first; recovery accepts any subset of these
    /// removals.
    fn drop_purged(&mut self, below: u64) -> io::Result<()> {
        self.shared.drop_files(below);
        let kept = self.sealed_bytes.split_off(&below);
        for (number, bytes) in std::mem::replace(&mut self.sealed_bytes, kept) {
            if self.spares.len() < SPARES_MAX {
                self.disk.rename(&segment_name(number), &spare_name(number))?;
                self.spares.push((spare_name(number), bytes));
            } else {
                self.disk.remove(&segment_name(number))?;
            }
        }
        self.disk.sync_dir()
    }

    /// Returns the bytes that the log takes on disk.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let spares = self.spares.iter().map(|(_, bytes)| bytes);
        self.file_bytes + self.sealed_bytes.values().chain(spares).sum::<u64>()
    }
}
