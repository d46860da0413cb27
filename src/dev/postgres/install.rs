//! Finding an installed PostgreSQL, and the user its server runs as.
//!
//! An installation that does not fit is reported, never repaired.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, process};

use nix::unistd::{Gid, Uid, User};
use pghc_runtime::private;

use super::error::Error;
use super::options::VERSION_MIN;

/// Environment variable that names the one directory of binaries to use: for trying pghc on another
/// version of PostgreSQL than the newest that is installed.
const BIN_VARIABLE: &str = "PGHC_PG_BIN";

/// Where packages put the servers' binaries; `*` is a version.
const USUAL_PLACES: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/lib64/pgsql/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// A PostgreSQL installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Directory that holds `postgres` and `initdb`.
    pub bin: PathBuf,
    /// Major version, for example 15.
    pub version: u32,
}

impl Install {
    /// Finds the installation in the directory that `PGHC_PG_BIN` names, else the newest in `PATH`
    /// and the usual places.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] when there is none from [`VERSION_MIN`] on.
    pub fn find() -> Result<Self, Error> {
        if let Some(bin) = std::env::var_os(BIN_VARIABLE).filter(|bin| !bin.is_empty()) {
            let found = format!("{BIN_VARIABLE}={}, and nothing usable there", bin.display());
            let named = Self::in_directory(Path::new(&bin));
            return named
                .filter(|install| install.version >= VERSION_MIN)
                .ok_or(Error::NotInstalled { found });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut bins: Vec<PathBuf> = std::env::split_paths(&path).collect();
        bins.extend(USUAL_PLACES.iter().flat_map(|place| expand(place)));
        let found: Vec<Self> = bins.iter().filter_map(|bin| Self::in_directory(bin)).collect();
        let newest = found.iter().max_by_key(|install| install.version);
        match newest {
            Some(install) if install.version >= VERSION_MIN => Ok(install.clone()),
            Some(old) => Err(Error::NotInstalled {
                found: format!("only version {} in {}", old.version, old.bin.display()),
            }),
            None => Err(Error::NotInstalled { found: "none".to_owned() }),
        }
    }

    /// The installation whose binaries are in `bin`; `None` if the directory holds none.
    fn in_directory(bin: &Path) -> Option<Self> {
        if !bin.join("initdb").is_file() {
            return None;
        }
        let output = process::Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { bin: bin.to_owned(), version })
    }
}

/// Reads the major version from `postgres (PostgreSQL) 15.18 (Debian …)` or `… 17beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

/// The existing directories that `pattern` names; it may hold one component with one `*`.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let after = after.trim_start_matches('/');
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(after))
        .collect()
}

/// The user a server runs as when we are root: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// The user that runs the server. `None` without root: the server runs as the current user. As
    /// root: the owner of the data directory, else `postgres`, else `nobody`.
    pub(super) fn choose(data_dir: &Path) -> Result<Option<Self>, Error> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        if let Ok(metadata) = fs::metadata(data_dir)
            && metadata.uid() != 0
        {
            return Ok(Some(Self { uid: metadata.uid(), gid: metadata.gid() }));
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok()?);
        let user = user.ok_or(Error::NoUser)?;
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Gives `path` to this user.
    pub(super) fn take(self, path: &Path) -> std::io::Result<()> {
        let ids = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        nix::unistd::chown(path, ids.0, ids.1).map_err(std::io::Error::from)
    }

    /// Lets only this user's group pass through `directory`, which root owns.
    pub(super) fn admit(self, directory: &Path) -> std::io::Result<()> {
        nix::unistd::chown(directory, None, Some(Gid::from_raw(self.gid)))?;
        private::set_mode(directory, private::DIRECTORY | 0o010)
    }

    /// Makes sure that this user may pass through every directory above `data_dir`. Only root's
    /// own directories below the temporary ones are opened, such as `mktemp -d` makes.
    pub(super) fn open_path(self, data_dir: &Path) -> Result<(), Error> {
        let temporary = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
        let mut above: Vec<&Path> = data_dir.ancestors().skip(1).collect();
        above.reverse();
        for directory in above {
            let metadata = fs::metadata(directory).map_err(Error::io("look at a directory"))?;
            if self.may_pass(&metadata) {
                continue;
            }
            let below = temporary.iter().any(|top| directory.starts_with(top) && directory != top);
            if !below || metadata.uid() != 0 {
                let (directory, data_dir) = (directory.to_owned(), data_dir.to_owned());
                return Err(Error::NotReachable { directory, data_dir });
            }
            tracing::info!(directory = %directory.display(), "execute permission granted on directory");
            let opened = match metadata.mode() & 0o070 {
                0 => self.admit(directory),
                // The group is in use for another purpose: all users may pass.
                _ => private::set_mode(directory, metadata.mode() & 0o7777 | 0o001),
            };
            opened.map_err(Error::io("open a directory"))?;
        }
        Ok(())
    }

    pub(super) fn may_pass(self, metadata: &fs::Metadata) -> bool {
        let bit = match metadata {
            _ if metadata.uid() == self.uid => 0o100,
            _ if metadata.gid() == self.gid => 0o010,
            _ => 0o001,
        };
        metadata.mode() & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn major_version_is_read_from_postgres_output() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(parse_version("postgres: command not found"), None);
    }
}
