//! Directory of a server's Unix socket; only its user and root may enter.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::error::Error;
use super::install::Owner;
use crate::scratch::Scratch;

/// Longest path of a socket in bytes, on every system that we know; Linux takes four more.
const PATH_BYTES_MAX: usize = 103;
/// How the names of a server's sockets, and of their lock files, begin.
const PREFIX: &str = ".s.PGSQL.";

/// The directory of a server's socket.
#[derive(Debug)]
pub(super) enum SocketDirectory {
    /// The data directory, which is private as PostgreSQL demands it.
    Data(PathBuf),
    /// A separate directory, because the path of the data directory is too long for a socket.
    Own(Scratch),
}

impl SocketDirectory {
    /// The directory for a server that runs as `owner`, or as ourselves.
    pub(super) fn of(data_dir: &Path, owner: Option<Owner>) -> Result<Self, Error> {
        let longest = data_dir.join(format!("{PREFIX}65535"));
        if longest.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self::Data(data_dir.to_owned()));
        }
        let scratch = Scratch::new("s").map_err(Error::io("create a directory for the socket"))?;
        let given = owner.map_or(Ok(()), |owner| owner.take(scratch.path()));
        given.map_err(Error::io("give the socket's directory to its user"))?;
        Ok(Self::Own(scratch))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Data(path) => path,
            Self::Own(scratch) => scratch.path(),
        }
    }

    /// The path as the host of a connection URL.
    pub(super) fn escaped(&self) -> String {
        let path = self.path().to_string_lossy();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let escape = |byte: u8| match is_plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        path.bytes().map(escape).collect()
    }

    /// Removes the socket of a server that has ended. Its lock file names a process whose number
    /// may be reused, which would block the next start.
    pub(super) fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The socket that a connection string names; `None` where it names a host.
#[must_use]
pub fn socket_of(dsn: &str) -> Option<PathBuf> {
    let config: tokio_postgres::Config = dsn.parse().ok()?;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first()? {
        tokio_postgres::config::Host::Unix(directory) => {
            Some(directory.join(format!("{PREFIX}{port}")))
        }
        tokio_postgres::config::Host::Tcp(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{SocketDirectory, socket_of};

    #[test]
    fn the_socket_of_a_connection_string_is_found() {
        let socket = socket_of("postgres://me@%2Fsrv%2Fmy%20deployment:24728/pghc");
        assert_eq!(socket.as_deref(), Some(Path::new("/srv/my deployment/.s.PGSQL.24728")));
        assert_eq!(socket_of("postgres://me@127.0.0.1:24728/pghc"), None);
    }

    #[test]
    fn socket_is_in_the_data_directory_unless_too_long() {
        let of = |path: &str| SocketDirectory::of(Path::new(path), None).unwrap();
        let short = of("/srv/my deployment/zones/eu/pg");
        assert_eq!(short.escaped(), "%2Fsrv%2Fmy%20deployment%2Fzones%2Feu%2Fpg");
        let long = format!("/srv/{}/pg", "x".repeat(100));
        let other = of(&long);
        assert!(other.path().is_dir() && other.path() != Path::new(&long));
        assert!(other.path().join(".s.PGSQL.65535").as_os_str().len() <= 103);
    }
}
