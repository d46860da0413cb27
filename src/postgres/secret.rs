//! Passwords that stand in files, so that none has to stand in a connection string.
//!
//! A file is read at every log-in: a password that was changed is used without a restart.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes that are read of a file of passwords or services.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Looks an environment variable up.
type Variable = dyn Fn(&str) -> Option<OsString>;

/// Where the usual files are looked for.
pub(super) struct Surroundings {
    variable: Box<Variable>,
}

impl Surroundings {
    /// The environment of this process.
    pub(super) fn of_process() -> Self {
        Self { variable: Box::new(|name| std::env::var_os(name)) }
    }

    #[cfg(test)]
    pub(super) fn of(variables: &[(&str, &Path)]) -> Self {
        let known: Vec<(String, OsString)> =
            variables.iter().map(|(name, path)| ((*name).to_owned(), (*path).into())).collect();
        let find = move |name: &str| known.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        Self { variable: Box::new(find) }
    }

    /// The path in an environment variable.
    pub(super) fn path(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// A file in the home directory.
    pub(super) fn at_home(&self, name: &str) -> Option<PathBuf> {
        self.path("HOME").map(|home| home.join(name))
    }
}

/// Where a log-in finds its password.
#[derive(Clone)]
pub(super) enum Secret {
    /// In the connection string.
    Given,
    /// Nowhere.
    None,
    /// In a file of `host:port:database:user:password` lines that was named: it must be usable.
    Lines(Arc<Path>),
    /// In such a file at the usual place: one that others may read is not used.
    UsualLines(Arc<Path>),
    /// A file that holds one password and nothing else.
    Whole(Arc<Path>),
}

/// The server and login that a password is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Login<'a> {
    pub(super) servers: &'a [(String, u16)],
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

impl Secret {
    /// `named` by `passfile=`, else by PGPASSFILE, else `.pgpass` at home.
    pub(super) fn find(named: Option<&str>, surroundings: &Surroundings) -> Self {
        let named = named.map(PathBuf::from).or_else(|| surroundings.path("PGPASSFILE"));
        match (named, surroundings.at_home(".pgpass")) {
            (Some(path), _) => Self::Lines(path.into()),
            (None, Some(path)) => Self::UsualLines(path.into()),
            (None, None) => Self::None,
        }
    }

    /// The password for a log-in; `None` when there is none for it, and then the server may do
    /// without.
    ///
    /// # Errors
    /// Why a file cannot be used and what to do; never what stands in it.
    pub(super) fn password(&self, login: Login<'_>) -> Result<Option<String>, String> {
        match self {
            Self::Given | Self::None => Ok(None),
            Self::Whole(path) => {
                let text = read(path).and_then(|read| read.private(path))?;
                match text.lines().next() {
                    Some(line) if !line.is_empty() => Ok(Some(line.to_owned())),
                    _ => Err(format!("the password file {} is empty", path.display())),
                }
            }
            Self::Lines(path) => find(&read(path)?.private(path)?, login, path),
            Self::UsualLines(path) => match read(path) {
                Ok(read) if read.is_private => find(&read.text, login, path),
                _ => Ok(None),
            },
        }
    }

    /// Advice for a log-in that was refused for want of a password.
    pub(super) fn advice(&self) -> String {
        match self {
            Self::Given => "the connection string holds one".to_owned(),
            Self::Lines(path) | Self::Whole(path) => {
                format!("it is looked for in {}", path.display())
            }
            Self::UsualLines(path) if read(path).is_ok_and(|read| !read.is_private) => {
                let path = path.display();
                format!("{path} was not used, since others may read it: chmod 600 {path}")
            }
            Self::UsualLines(_) | Self::None => {
                "name a file that holds it with passfile=, PGPASSFILE, ~/.pgpass or \
                 --database-password-file"
                    .to_owned()
            }
        }
    }
}

/// A file as it was read.
pub(super) struct Read {
    pub(super) text: String,
    is_private: bool,
}

impl Read {
    fn private(self, path: &Path) -> Result<String, String> {
        if self.is_private {
            return Ok(self.text);
        }
        let path = path.display();
        Err(format!("the password file {path} can be read by others: chmod 600 {path}"))
    }
}

/// Reads a file of passwords or services.
pub(super) fn read(path: &Path) -> Result<Read, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    // A group may read what root has given to it, as systemd and containers do.
    let others = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    Ok(Read { text, is_private: metadata.mode() & others == 0 })
}

/// The password that the first fitting line gives, one for all servers of the log-in.
fn find(text: &str, login: Login<'_>, path: &Path) -> Result<Option<String>, String> {
    let of =
        |(host, port): &(String, u16)| text.lines().find_map(|line| fits(line, host, *port, login));
    let mut found = login.servers.iter().map(of);
    let first = found.next().flatten();
    if found.all(|other| other == first) {
        return Ok(first);
    }
    Err(format!(
        "{} gives the servers of this connection string different passwords, and one is used for \
         all of them",
        path.display()
    ))
}

/// The password of a line `host:port:database:user:password` if it is for this log-in.
fn fits(line: &str, host: &str, port: u16, login: Login<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    let mut next = || field(&mut rest);
    let (for_host, for_port, for_database, for_user) = (next()?, next()?, next()?, next()?);
    let is = |field: &str, value: &str| field == "*" || field == value;
    let is_host = is(&for_host, host) || (host.starts_with('/') && for_host == "localhost");
    let fits = is_host
        && is(&for_port, &port.to_string())
        && is(&for_database, login.database)
        && is(&for_user, login.user);
    fits.then(|| unescaped(rest)).filter(|password| !password.is_empty())
}

/// Takes a field and the `:` behind it; `None` when there is no `:`.
fn field(rest: &mut &str) -> Option<String> {
    let mut is_escaped = false;
    let end = rest.find(|letter| {
        let is_end = letter == ':' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        is_end
    })?;
    let (field, behind) = rest.split_at(end);
    *rest = &behind[1..];
    Some(unescaped(field))
}

/// Text whose `\` take the next character as it is.
fn unescaped(text: &str) -> String {
    let mut letters = text.chars();
    std::iter::from_fn(|| match letters.next()? {
        '\\' => letters.next(),
        letter => Some(letter),
    })
    .collect()
}
