//! Reads and replaces small files beside the log.

use std::io;

use serde::de::DeserializeOwned;

use super::log::disk::Disk;

/// Reads a file; `None` if it does not exist.
pub(crate) fn read(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Reads a file that holds a preference only.
///
/// An unreadable file does not prevent startup: it is renamed to `NAME.unreadable`, replacing an
/// earlier one, and a warning states the consequence (`without`).
pub(crate) fn read_or_set_aside<T: DeserializeOwned>(
    disk: &dyn Disk,
    name: &str,
    without: &str,
) -> Option<T> {
    let bytes = read(disk, name).transpose()?;
    let parsed =
        bytes.and_then(|bytes| serde_json::from_slice::<T>(&bytes).map_err(io::Error::from));
    let error = match parsed {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let aside = format!("{name}.unreadable");
    let moved = disk.rename(name, &aside).and_then(|()| disk.sync_dir());
    let moved = moved.err().map(|error| error.to_string());
    tracing::warn!(
        file = name, %error, aside, not_moved = moved,
        "unreadable file set aside: {without}"
    );
    None
}

/// Replaces a file; durable on return. A crash leaves the old or the new file whole.
pub(crate) fn write(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    // Otherwise a reordering file system may rename an earlier attempt's leftover.
    disk.sync_dir()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}
