//! A disk in memory: written bytes are readable at once, without delay.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use pghc_server::coordinator::log::disk::{Disk, DiskFile};

#[derive(Default)]
struct Platter {
    files: BTreeMap<String, Arc<MemFile>>,
    is_locked: bool,
}

/// A disk that outlives the processes that use it, one at a time. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct MemDisk(Arc<Mutex<Platter>>);

#[derive(Default)]
struct MemFile(Mutex<Vec<u8>>);

/// Locks a disk while it lives.
struct Lock(MemDisk);

impl MemDisk {
    /// The disk for the next process; the one before has been killed and keeps nothing locked.
    #[must_use]
    pub(super) fn mount(&self) -> Self {
        self.0.lock().is_locked = false;
        self.clone()
    }
}

impl Disk for MemDisk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        if std::mem::replace(&mut self.0.lock().is_locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock(self.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::<MemFile>::default();
        let mut platter = self.0.lock();
        if platter.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        platter.files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let platter = self.0.lock();
        let file = platter.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn DiskFile>)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.0.lock();
        let file = platter.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        platter.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.0.lock().files.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.0.lock();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let from = file.get(offset..offset + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.0.lock();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.0.lock().is_locked = false;
    }
}
