//! Disk in memory that records a trace, so that a test can compute the result of a power cut at any
//! moment. It can also fail, and block syncs.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::coordinator::log::disk::{Disk, DiskFile};

/// One operation on the disk.
#[derive(Debug, Clone)]
pub(in crate::coordinator) enum Event {
    Create {
        name: String,
        node: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncDir,
    Write {
        node: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    Sync {
        node: usize,
    },
    /// The log has reported this many steps as durable.
    Acknowledged {
        steps: usize,
    },
}

/// Files and names, without knowledge of durability.
#[derive(Debug, Clone, Default)]
pub(in crate::coordinator) struct Image {
    pub(in crate::coordinator) nodes: BTreeMap<usize, Vec<u8>>,
    pub(in crate::coordinator) names: BTreeMap<String, usize>,
}

impl Image {
    /// Applies the event. Its file may be missing, since a power cut may have lost it.
    pub(in crate::coordinator) fn apply(&mut self, event: &Event) {
        match event {
            Event::Create { name, node } => {
                self.names.insert(name.clone(), *node);
            }
            Event::Rename { from, to } => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Event::Remove { name } => {
                self.names.remove(name);
            }
            Event::Write { node, offset, bytes } => {
                let file = self.nodes.entry(*node).or_default();
                file.resize(file.len().max(offset + bytes.len()), 0);
                file[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Event::SyncDir | Event::Sync { .. } | Event::Acknowledged { .. } => {}
        }
    }

    pub(in crate::coordinator) fn file(&mut self, name: &str) -> &mut Vec<u8> {
        self.nodes.entry(self.names[name]).or_default()
    }
}

#[derive(Default)]
struct Inner {
    image: Image,
    nodes: usize,
    trace: Vec<Event>,
    is_locked: bool,
    /// Number of syncs before further ones block.
    syncs_allowed: Option<usize>,
    syncs: usize,
    syncs_until_failure: Option<usize>,
    fails_reads: bool,
    failed_reads: usize,
}

/// Clones are the same disk.
#[derive(Clone, Default)]
pub(in crate::coordinator) struct MemDisk(Arc<(Mutex<Inner>, Condvar)>);

struct MemFile(MemDisk, usize);

struct Lock(MemDisk);

impl MemDisk {
    /// Creates a disk with this durable content.
    pub(in crate::coordinator) fn of(image: Image) -> Self {
        let disk = Self::default();
        disk.0.0.lock().nodes = image.nodes.keys().last().map_or(0, |node| node + 1);
        disk.0.0.lock().image = image;
        disk
    }

    pub(in crate::coordinator) fn image(&self) -> Image {
        self.0.0.lock().image.clone()
    }

    pub(in crate::coordinator) fn trace(&self) -> Vec<Event> {
        self.0.0.lock().trace.clone()
    }

    pub(in crate::coordinator) fn note(&self, event: Event) {
        self.0.0.lock().trace.push(event);
    }

    /// Returns the number of file syncs begun.
    pub(in crate::coordinator) fn syncs(&self) -> usize {
        self.0.0.lock().syncs
    }

    /// Blocks syncs, or releases them.
    pub(in crate::coordinator) fn hold_syncs(&self, is_held: bool) {
        let syncs = self.syncs();
        self.0.0.lock().syncs_allowed = is_held.then_some(syncs);
        self.0.1.notify_all();
    }

    /// Waits until this many file syncs have begun.
    pub(in crate::coordinator) fn wait_for_syncs(&self, syncs: usize) {
        let mut inner = self.0.0.lock();
        while inner.syncs < syncs {
            self.0.1.wait(&mut inner);
        }
    }

    /// Makes one sync fail after `more` successes. Like a real disk, later syncs succeed.
    pub(in crate::coordinator) fn fail_sync_after(&self, more: usize) {
        self.0.0.lock().syncs_until_failure = Some(more);
    }

    /// Makes all reads fail, or succeed again.
    pub(in crate::coordinator) fn fail_reads(&self, fails: bool) {
        self.0.0.lock().fails_reads = fails;
    }

    /// Returns the number of failed reads.
    pub(in crate::coordinator) fn failed_reads(&self) -> usize {
        self.0.0.lock().failed_reads
    }

    fn done(&self, event: Event) {
        let mut inner = self.0.0.lock();
        inner.image.apply(&event);
        inner.trace.push(event);
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        if std::mem::replace(&mut self.0.0.lock().is_locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.0.lock().image.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let node = {
            let mut inner = self.0.0.lock();
            if inner.image.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inner.nodes += 1;
            inner.nodes - 1
        };
        self.done(Event::Create { name: name.to_owned(), node });
        Ok(Arc::new(MemFile(self.clone(), node)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let node = *self.0.0.lock().image.names.get(name).ok_or_else(not_found)?;
        Ok(Arc::new(MemFile(self.clone(), node)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.0.0.lock().image.names.contains_key(from) {
            return Err(not_found());
        }
        self.done(Event::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.0.0.lock().image.names.contains_key(name) {
            return Err(not_found());
        }
        self.done(Event::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.done(Event::SyncDir);
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.0.0.lock().image.nodes.get(&self.1).map_or(0, Vec::len) as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let mut inner = self.0.0.0.lock();
        if inner.fails_reads {
            inner.failed_reads += 1;
            return Err(io::Error::other("the disk cannot read this"));
        }
        let file = inner.image.nodes.get(&self.1).map_or(&[][..], |file| file);
        let offset = usize::try_from(offset).unwrap();
        let from = file.get(offset..offset + into.len());
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0.done(Event::Write { node: self.1, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (inner, changed) = &*self.0.0;
        let mut inner = inner.lock();
        inner.syncs += 1;
        let this = inner.syncs;
        changed.notify_all();
        while inner.syncs_allowed.is_some_and(|allowed| this > allowed) {
            changed.wait(&mut inner);
        }
        if let Some(more) = inner.syncs_until_failure {
            inner.syncs_until_failure = more.checked_sub(1);
            if more == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
        }
        inner.trace.push(Event::Sync { node: self.1 });
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.0.0.lock().is_locked = false;
    }
}
