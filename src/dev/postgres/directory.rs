//! The files of a server: data directory, settings, client authentication, log.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Uid, User};
use pghc_runtime::private;
use tokio::process::Command;

use super::error::Error;
use super::install::{Install, Owner};
use super::options::{SUPERUSER, ServerOptions};
use super::socket::SocketDirectory;
use super::template::Template;
use crate::process::Process;

/// Variables of our environment that would change what PostgreSQL's programs do.
const FOREIGN: &[&str] = &["PG", "LC_"];

/// Creates the directory above `data_dir` and answers the path of `data_dir` without symbolic
/// links: it is compared with command lines.
pub(super) fn prepare_parent(data_dir: &Path, owner: Option<Owner>) -> Result<PathBuf, Error> {
    let absolute = std::path::absolute(data_dir).map_err(Error::io("find the data directory"))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(Error::Io { act: "use the root directory as a data directory", source });
    };
    create_passable(parent, owner)?;
    let parent = parent.canonicalize().map_err(Error::io("find the data directory"))?;
    Ok(parent.join(name))
}

/// Creates the directory of a deployment, or of servers, and what is missing above it. They are private:
/// where PostgreSQL runs as another user, its group may pass through and not list.
///
/// # Errors
/// Errors of the file system; [`Error::NoUser`].
pub(crate) fn make_directory(directory: &Path) -> Result<(), Error> {
    let owner = Owner::choose(directory)?;
    create_passable(directory, owner)?;
    let metadata = fs::metadata(directory).map_err(Error::io("look at a directory"))?;
    match owner {
        // The directory was named for this purpose, so its owner accepts PostgreSQL in it.
        Some(owner) if metadata.uid() == 0 && !owner.may_pass(&metadata) => {
            owner.admit(directory).map_err(Error::io("open a directory"))
        }
        _ => Ok(()),
    }
}

fn create_passable(directory: &Path, owner: Option<Owner>) -> Result<(), Error> {
    let made = private::create_dir_all(directory);
    let made = made.map_err(Error::io("create the directory above the data directory"))?;
    let Some(owner) = owner else { return Ok(()) };
    let mut opened = made.iter().map(|directory| owner.admit(directory));
    opened.try_for_each(|it| it).map_err(Error::io("open a directory"))
}

/// A server's data directory, and what its programs are run with.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) options: ServerOptions,
    install: Install,
    pub(super) owner: Option<Owner>,
    pub(super) socket_dir: SocketDirectory,
}

impl Directory {
    /// The directory of a server with these options; only those above it are made.
    pub(super) fn new(options: ServerOptions) -> Result<Self, Error> {
        let install = Install::find()?;
        let mut options = options;
        let owner = Owner::choose(&options.data_dir)?;
        options.data_dir = prepare_parent(&options.data_dir, owner)?;
        let socket_dir = SocketDirectory::of(&options.data_dir, owner)?;
        Ok(Self { options, install, owner, socket_dir })
    }

    /// Whether it is there.
    pub(super) fn is_made(&self) -> bool {
        self.options.data_dir.join("PG_VERSION").exists()
    }

    /// A command (of the installation, unless its path is absolute) that runs as the server's user
    /// and writes to the server's log.
    pub(super) fn command(&self, program: &str, directory: &Path) -> Result<Command, Error> {
        let log = private::append(&self.options.log);
        let log = log.map_err(Error::io("open the server's log"))?;
        let again = log.try_clone().map_err(Error::io("open the server's log"))?;
        let mut command = Command::new(self.install.bin.join(program));
        command.current_dir(directory);
        for (name, _) in std::env::vars_os() {
            if FOREIGN.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env_remove("LANGUAGE").env("LC_ALL", "C").env("LANG", "C").env("TZ", "UTC");
        // Files of ours that PostgreSQL's user may not read would end it.
        command.env("HOME", directory);
        command.stdout(log).stderr(again);
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        Ok(command)
    }

    /// Creates the data directory beside its final place and renames it, so that a crash in between
    /// leaves no incomplete data directory. Returns the template it was copied from, if any.
    pub(super) async fn create(&self) -> Result<Option<Arc<Template>>, Error> {
        if let Some(parent) = self.options.log.parent() {
            create_passable(parent, self.owner)?;
        }
        if let Some(owner) = self.owner {
            owner.open_path(&self.options.data_dir)?;
        }
        if self.is_made() {
            return self.check_version().map(|()| None);
        }
        let mut new = self.options.data_dir.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        if new.exists() {
            fs::remove_dir_all(&new).map_err(Error::io("remove an unfinished data directory"))?;
        }
        let template = if self.options.temporary {
            let make = async |data: PathBuf| self.initdb(&data).await;
            let template = Template::of(self.owner, self.install.version, make).await?;
            template.copy(&new).await?;
            Some(template)
        } else {
            self.initdb(&new).await?;
            None
        };
        let data_dir = &self.options.data_dir;
        fs::rename(&new, data_dir).map_err(Error::io("move the data directory into place"))?;
        Ok(template)
    }

    /// Makes a data directory by `initdb`; it must not be there.
    async fn initdb(&self, new: &Path) -> Result<(), Error> {
        let made = private::create_dir(new);
        made.map_err(Error::io("create the data directory"))?;
        if let Some(owner) = self.owner {
            owner.take(new).map_err(Error::io("give the data directory to its user"))?;
        }
        let mut initdb = self.command("initdb", new)?;
        initdb.arg("-D").arg(new).args([
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C",
            // Replaced before the server starts.
            "--auth-local=peer",
            "--auth-host=reject",
        ]);
        initdb.args(["--username", SUPERUSER, "--no-instructions"]);
        if self.options.temporary {
            initdb.arg("--no-sync");
        }
        let mut process = Process::default();
        process.spawn(&mut initdb).map_err(Error::io("run initdb"))?;
        let status = process.exited().await.map_err(Error::io("run initdb"))?;
        let status = status.expect("it was just started");
        if !status.success() {
            return Err(Error::exited(status, &self.options.log, 0));
        }
        let conf = fs::File::options().append(true).open(new.join("postgresql.conf"));
        conf.and_then(|mut file| file.write_all(b"\ninclude 'pghc.conf'\n"))
            .map_err(Error::io("write postgresql.conf"))
    }

    /// A data directory can only be opened by its own major version.
    fn check_version(&self) -> Result<(), Error> {
        let text = fs::read_to_string(self.options.data_dir.join("PG_VERSION"));
        let text = text.map_err(Error::io("read PG_VERSION"))?;
        let made_by = text.trim().to_owned();
        if made_by == self.install.version.to_string() {
            return Ok(());
        }
        let data_dir = self.options.data_dir.clone();
        Err(Error::OtherVersion { data_dir, made_by, installed: self.install.version })
    }

    /// Writes `pghc.conf`, sized for many small servers on one machine.
    pub(super) fn write_settings(&self) -> Result<(), Error> {
        let mut text = WRITTEN.to_owned();
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_permissions", "0777"),
            ("password_encryption", "scram-sha-256"),
            ("shared_buffers", "128MB"),
            ("max_connections", "100"),
            ("huge_pages", "off"),
            ("logging_collector", "off"),
            ("log_line_prefix", "%m [%p] "),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let port = self.options.port.to_string();
        let socket = self.socket_dir.path().display().to_string();
        let given = self.options.settings.iter().map(|(name, value)| (name.as_str(), &**value));
        for (name, value) in own
            .into_iter()
            .chain([("port", &*port), ("unix_socket_directories", &*socket)])
            .chain(given)
        {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        self.put("pghc.conf", &text)?;
        self.put("pg_hba.conf", &format!("{WRITTEN}{HBA}"))?;
        self.put("pg_ident.conf", &format!("{WRITTEN}{}", self.idents()))
    }

    /// Operating system users that map to the superuser: the current user, and the server's user,
    /// whose replicas log in too.
    fn idents(&self) -> String {
        let uids = [Some(Uid::effective()), self.owner.map(|owner| Uid::from_raw(owner.uid))];
        let users = uids.into_iter().flatten().filter_map(|uid| User::from_uid(uid).ok()?);
        users.map(|user| format!("pghc \"{}\" {SUPERUSER}\n", user.name)).collect()
    }

    /// Writes a file of the data directory, for the server's user.
    fn put(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.options.data_dir.join(name);
        let written = private::replace(&path, text.as_bytes());
        let written = written.and_then(|()| self.owner.map_or(Ok(()), |owner| owner.take(&path)));
        written.map_err(Error::io("write the server's settings"))
    }
}

const WRITTEN: &str = "# Written by pghc at every start; changes are lost.\n";

/// Client authentication: the superuser by operating system user, every other login by password.
const HBA: &str = "\
local all,replication postgres                peer map=pghc
local all             all                     scram-sha-256
host  all             all        127.0.0.1/32 scram-sha-256
";
