//! A simulated disk: one directory that outlives its processes, and at a power cut loses unsynced
//! writes wholly, partly, or not at all.

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
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[derive(Clone)]
enum Naming {
    Link(String, u64),
    Rename(String, String),
    Remove(String),
}

fn name(names: &mut BTreeMap<String, u64>, naming: &Naming) {
    match naming {
        Naming::Link(new, node) => drop(names.insert(new.clone(), *node)),
        Naming::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        Naming::Remove(old) => drop(names.remove(old)),
    }
}

struct Platter {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<Naming>,
    next_node: u64,
    /// Of the process that may use it.
    generation: u64,
    is_locked: bool,
    sync: (u64, u64),
}

/// A disk. Clones are the same one, as the process of one generation sees it.
#[derive(Clone)]
pub(crate) struct SimDisk {
    platter: Arc<Mutex<Platter>>,
    rng: SeededRng,
    generation: u64,
}

struct SimFile(SimDisk, u64);

struct Lock(SimDisk);

impl SimDisk {
    /// An empty disk.
    pub(crate) fn new(rng: SeededRng) -> Self {
        let platter = Platter {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            next_node: 0,
            generation: 0,
            is_locked: false,
            sync: (200, 2_000),
        };
        Self { platter: Arc::new(Mutex::new(platter)), rng, generation: 0 }
    }

    /// Mounts the disk for the next process; writes of an earlier process are discarded.
    pub(crate) fn mount(&self) -> Self {
        let mut platter = self.platter.lock();
        platter.generation += 1;
        platter.is_locked = false;
        let generation = platter.generation;
        drop(platter);
        Self { generation, ..self.clone() }
    }

    /// How long syncs take, in microseconds.
    pub(crate) fn set_sync(&self, low: u64, high: u64) {
        self.platter.lock().sync = (low, high);
    }

    /// The process has ended; the operating system still has all writes.
    pub(crate) fn detach(&self) {
        self.platter.lock().generation += 1;
    }

    /// Cuts the power: only a part of the unsynced writes survives.
    pub(crate) fn cut_power(&self) {
        let mut platter = self.platter.lock();
        platter.generation += 1;
        let kept_per_mille = self.rng.pick(&[0, 300, 700, 1000]);
        let mut names = platter.durable_names.clone();
        // Journals keep the order of names.
        let unsynced_names = std::mem::take(&mut platter.unsynced_names);
        let kept_names = self.rng.below(unsynced_names.len() + 1);
        unsynced_names[..kept_names].iter().for_each(|naming| name(&mut names, naming));
        platter.names.clone_from(&names);
        platter.durable_names = names;
        for file in platter.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                let mut at = 0;
                while at < bytes.len() {
                    let end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
                    let end = end.min(bytes.len());
                    if self.rng.per_mille(kept_per_mille) {
                        write(&mut file.durable, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
            file.seen.clone_from(&file.durable);
        }
    }

    /// Another disk in its place: empty.
    pub(crate) fn wipe(&self) {
        let mut platter = self.platter.lock();
        platter.generation += 1;
        platter.files.clear();
        platter.names.clear();
        platter.durable_names.clear();
        platter.unsynced_names.clear();
    }

    /// Whether a power cut would leave a file `name` that holds `text`.
    pub(crate) fn keeps(&self, name: &str, text: &str) -> bool {
        let platter = self.platter.lock();
        let node = platter.durable_names.get(name);
        let file = node.and_then(|node| platter.files.get(node));
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

    fn node(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
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
        let node = self.with(|platter| {
            if platter.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            platter.next_node += 1;
            let node = platter.next_node;
            platter.files.insert(node, File::default());
            platter.name(Naming::Link(name.to_owned(), node));
            Ok(node)
        })?;
        Ok(Arc::new(SimFile(self.clone(), node)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.with(|platter| platter.node(name))?;
        Ok(Arc::new(SimFile(self.clone(), node)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|platter| {
            platter.node(from)?;
            platter.name(Naming::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|platter| {
            platter.node(name)?;
            platter.name(Naming::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.with(|platter| {
            platter.durable_names = platter.names.clone();
            platter.unsynced_names.clear();
            Ok(())
        })
    }

    fn sync_takes(&self) -> Duration {
        let (low, high) = self.platter.lock().sync;
        Duration::from_micros(self.rng.between(low, high))
    }
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
        self.0.with(|platter| act(platter.files.get_mut(&self.1).expect("nodes stay")))
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
            file.unsynced.push((offset, bytes.to_vec()));
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
