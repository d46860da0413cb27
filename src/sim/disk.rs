//! A disk in memory: one directory that outlives its processes. A faulty one syncs slowly, and a
//! power cut loses its unsynced writes wholly, partly, or not at all.
//!
//! Invariant: a process that has ended neither reads nor writes; each mount has a number, and the
//! disk serves the newest one alone.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_server::coordinator::log::disk::{Disk, DiskFile};

use super::rng::SeededRng;

const SECTOR_BYTES: usize = 512;

#[derive(Default)]
struct File {
    /// Bytes that reads return.
    seen: Vec<u8>,
    /// Bytes that a power cut leaves, and writes since; of a faulty disk alone.
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

type SharedFile = Arc<Mutex<File>>;

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

enum Naming {
    Link(String, SharedFile),
    Rename(String, String),
    Remove(String),
}

type Names = BTreeMap<String, SharedFile>;

fn name(names: &mut Names, naming: &Naming) {
    match naming {
        Naming::Link(new, file) => drop(names.insert(new.clone(), Arc::clone(file))),
        Naming::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Naming::Remove(old) => drop(names.remove(old)),
    }
}

#[derive(Default)]
struct Platter {
    /// Oldest first; a file stays until no name and no process has it.
    files: Vec<SharedFile>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<Naming>,
    /// Of the process that may use the disk.
    generation: u64,
    is_locked: bool,
    sync_us: (u64, u64),
}

/// A disk. Clones are the same one, as the process of one generation sees it. The default has no
/// faults: its syncs take no time, and a power cut loses nothing.
#[derive(Clone, Default)]
pub struct SimDisk {
    platter: Arc<Mutex<Platter>>,
    generation: u64,
    faults: Option<SeededRng>,
}

struct SimFile(SimDisk, SharedFile);

struct Lock(SimDisk);

impl SimDisk {
    /// An empty disk whose faults `rng` decides.
    #[must_use]
    pub fn faulty(rng: SeededRng) -> Self {
        let disk = Self { faults: Some(rng), ..Self::default() };
        disk.set_sync(200, 2_000);
        disk
    }

    /// Mounts the disk for the next process; writes of an earlier process are discarded.
    #[must_use]
    pub fn mount(&self) -> Self {
        self.detach();
        let mut platter = self.platter.lock();
        platter.is_locked = false;
        Self { generation: platter.generation, ..self.clone() }
    }

    /// Sets how long syncs of a faulty disk take, in microseconds.
    pub fn set_sync(&self, low: u64, high: u64) {
        self.platter.lock().sync_us = (low, high);
    }

    /// The process has ended; the operating system still has all writes.
    pub fn detach(&self) {
        self.platter.lock().generation += 1;
    }

    /// Cuts the power: only a part of the unsynced writes to a faulty disk survives.
    pub fn cut_power(&self) {
        self.detach();
        let Some(rng) = &self.faults else { return };
        let mut platter = self.platter.lock();
        let kept_per_mille = rng.pick(&[0, 300, 700, 1000]);
        let mut names = platter.durable_names.clone();
        // Journals keep the order of names.
        let unsynced_names = std::mem::take(&mut platter.unsynced_names);
        let kept_names = rng.below(unsynced_names.len() + 1);
        unsynced_names[..kept_names].iter().for_each(|naming| name(&mut names, naming));
        platter.names.clone_from(&names);
        platter.durable_names = names;
        for file in &platter.files {
            let file = &mut *file.lock();
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                let mut at = 0;
                while at < bytes.len() {
                    let end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
                    let end = end.min(bytes.len());
                    if rng.per_mille(kept_per_mille) {
                        write(&mut file.durable, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
            file.seen.clone_from(&file.durable);
        }
    }

    /// Another disk in its place: empty.
    pub fn wipe(&self) {
        let mut platter = self.platter.lock();
        let (generation, sync_us) = (platter.generation + 1, platter.sync_us);
        *platter = Platter { generation, sync_us, ..Platter::default() };
    }

    /// Whether a power cut would leave a file `name` that holds `text`.
    #[must_use]
    pub fn keeps(&self, name: &str, text: &str) -> bool {
        let platter = self.platter.lock();
        let file = platter.durable_names.get(name).map(|file| file.lock());
        file.is_some_and(|file| String::from_utf8_lossy(&file.durable).contains(text))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        let mut platter = self.platter.lock();
        if platter.generation != self.generation {
            return Err(io::Error::other("this process is gone"));
        }
        act(&mut platter)
    }
}

impl Platter {
    fn name(&mut self, naming: Naming) {
        name(&mut self.names, &naming);
        self.unsynced_names.push(naming);
    }

    fn file(&self, name: &str) -> io::Result<&SharedFile> {
        self.names.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.with(|platter| match std::mem::replace(&mut platter.is_locked, true) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        })?;
        Ok(Box::new(Lock(self.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|platter| Ok(platter.names.keys().cloned().collect()))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|platter| {
            if platter.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = SharedFile::default();
            platter.files.push(Arc::clone(&file));
            platter.name(Naming::Link(name.to_owned(), Arc::clone(&file)));
            Ok(file)
        })?;
        Ok(Arc::new(SimFile(self.clone(), file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|platter| platter.file(name).cloned())?;
        Ok(Arc::new(SimFile(self.clone(), file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|platter| {
            platter.file(from)?;
            platter.name(Naming::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|platter| {
            platter.file(name)?;
            platter.name(Naming::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.with(|platter| {
            platter.durable_names = platter.names.clone();
            platter.unsynced_names.clear();
            platter.files.retain(|file| Arc::strong_count(file) > 1);
            Ok(())
        })
    }

    fn sync_takes(&self) -> Duration {
        let sync_us = self.platter.lock().sync_us;
        self.faults.as_ref().map_or(Duration::ZERO, |rng| rng.micros(sync_us))
    }
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        self.0.with(|_| act(&mut self.1.lock()))
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.seen.len() as u64))
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|file| {
            let offset = usize::try_from(offset).expect("small files");
            let from = file.seen.get(offset..offset + into.len());
            into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|file| {
            let offset = usize::try_from(offset).expect("small files");
            write(&mut file.seen, offset, bytes);
            if self.0.faults.is_some() {
                file.unsynced.push((offset, bytes.to_vec()));
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|file| {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                write(&mut file.durable, offset, &bytes);
            }
            Ok(())
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.with(|platter| {
            platter.is_locked = false;
            Ok(())
        });
    }
}
