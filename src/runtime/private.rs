//! Directories and files that only their owner may open.
//!
//! Invariant: the mode of every created file is set, not inherited. The umask neither opens nor
//! closes it. Existing files keep their mode.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of a directory: its owner lists, enters and changes it.
pub const DIRECTORY: u32 = 0o700;
/// Mode of a file: its owner reads and writes it.
pub const FILE: u32 = 0o600;

/// Sets the umask of this process, so that files made by other code are private too.
pub fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Creates a directory and the missing ones above it; returns those that were missing, outermost first.
///
/// # Errors
/// Errors of the file system; some of the directories may exist then.
pub fn create_dir_all(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for directory in path.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
        if directory.is_dir() {
            break;
        }
        missing.push(directory.to_owned());
    }
    missing.reverse();
    let mut made = Vec::with_capacity(missing.len());
    for directory in missing {
        match create_dir(&directory) {
            Ok(()) => made.push(directory),
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// Creates a directory that is not there.
///
/// # Errors
/// Errors of the file system.
pub fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(path)?;
    set_mode(path, DIRECTORY)
}

/// Creates a file that is not there, for reading and writing.
///
/// # Errors
/// Errors of the file system.
pub fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    exact(options.mode(FILE).read(true).write(true).create_new(true).open(path)?)
}

/// Opens a file for reading and writing, creating it where it is not there.
///
/// # Errors
/// Errors of the file system.
pub fn open(path: &Path) -> io::Result<File> {
    match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create_new(path) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                File::options().read(true).write(true).open(path)
            }
            created => created,
        },
        opened => opened,
    }
}

/// Opens a file for appending, creating it where it is not there.
///
/// # Errors
/// Errors of the file system.
pub fn append(path: &Path) -> io::Result<File> {
    open(path)?;
    File::options().append(true).open(path)
}

/// Writes a file in the place of the one before it, which keeps its contents until the new one is on
/// disk. The name with `.new` behind it is used on the way.
///
/// # Errors
/// Errors of the file system; the old file still exists then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create_new(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Sets a mode where it is another one.
///
/// # Errors
/// Errors of the file system.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// The umask may have removed bits of the mode requested at creation.
fn exact(file: File) -> io::Result<File> {
    if file.metadata()?.permissions().mode() & 0o7777 != FILE {
        file.set_permissions(Permissions::from_mode(FILE))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn created_directory_is_private() {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), Permissions::from_mode(0o751)).unwrap();
        let deep = top.path().join("a/b");
        let made = super::create_dir_all(&deep).unwrap();
        assert_eq!(made, [top.path().join("a"), deep.clone()]);
        assert_eq!([mode(top.path()), mode(&made[0]), mode(&deep)], [0o751, 0o700, 0o700]);
        assert!(super::create_dir_all(&deep).unwrap().is_empty());
    }

    #[test]
    fn private_file_is_replaced_atomically() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("f");
        super::append(&file).unwrap().write_all(b"one").unwrap();
        super::append(&file).unwrap().write_all(b"two").unwrap();
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"onetwo".to_vec(), 0o600));
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        super::replace(&file, b"three").unwrap();
        let mut text = String::new();
        super::open(&file).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), mode(&file)), ("three", 0o600));
        assert!(super::create_new(&file).is_err());
    }
}
