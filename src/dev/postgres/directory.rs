//! The files of a server: its data directory, its settings, its log.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::template::Template;
use super::{Error, SUPERUSER, Server};
use crate::dev::process::Process;

/// Creates the directory above `data_dir` and answers the path of `data_dir` without symbolic
/// links: it is compared with command lines.
pub(super) fn prepare_parent(data_dir: &Path) -> Result<PathBuf, Error> {
    let absolute = std::path::absolute(data_dir).map_err(Error::io("find the data directory"))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(Error::Io { act: "use the root directory as a data directory", source });
    };
    create_passable(parent)?;
    let parent = parent.canonicalize().map_err(Error::io("find the data directory"))?;
    Ok(parent.join(name))
}

/// Creates a directory and what is missing above it; others may pass through and not list.
fn create_passable(directory: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o711).create(directory);
    made.map_err(Error::io("create the directory above the data directory"))
}

impl Server {
    /// A command (of the installation, unless its path is absolute) that runs as the server's user
    /// and writes to the server's log.
    pub(super) fn command(&self, program: &str, directory: &Path) -> Result<Command, Error> {
        let log = fs::File::options().create(true).append(true).open(&self.options.log);
        let log = log.map_err(Error::io("open the server's log"))?;
        let again = log.try_clone().map_err(Error::io("open the server's log"))?;
        let mut command = Command::new(self.install.bin.join(program));
        command.current_dir(directory);
        command.env("LC_ALL", "C");
        command.stdout(log).stderr(again);
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        Ok(command)
    }

    /// Makes the data directory beside its final place and renames, so that a crash in between
    /// leaves nothing that looks like a data directory.
    pub(super) async fn create_directory(&mut self) -> Result<(), Error> {
        if let Some(parent) = self.options.log.parent() {
            create_passable(parent)?;
        }
        if let Some(owner) = self.owner {
            owner.open_path(&self.options.data_dir)?;
        }
        if self.options.data_dir.join("PG_VERSION").exists() {
            return self.check_version();
        }
        let mut new = self.options.data_dir.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        if new.exists() {
            fs::remove_dir_all(&new).map_err(Error::io("remove an unfinished data directory"))?;
        }
        if self.options.temporary {
            let template = Template::of(self).await?;
            template.copy(&new).await?;
            self.template = Some(template);
        } else {
            self.initdb(&new).await?;
        }
        let data_dir = &self.options.data_dir;
        fs::rename(&new, data_dir).map_err(Error::io("move the data directory into place"))
    }

    /// Makes a data directory by `initdb`; it must not be there.
    pub(super) async fn initdb(&self, new: &Path) -> Result<(), Error> {
        let made = fs::DirBuilder::new().mode(0o700).create(new);
        made.map_err(Error::io("create the data directory"))?;
        if let Some(owner) = self.owner {
            owner.take(new).map_err(Error::io("give the data directory to its user"))?;
        }
        let mut initdb = self.command("initdb", new)?;
        initdb.arg("-D").arg(new).args([
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C",
            "--auth=trust",
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
            return Err(Error::exited(status, &self.options, 0));
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
        let mut text = String::from("# Written by pghc at every start; changes are lost.\n");
        let own = [
            ("listen_addresses", "127.0.0.1"),
            // Paths of sockets are limited to about 100 bytes; data directories are not.
            ("unix_socket_directories", ""),
            ("shared_buffers", "128MB"),
            ("max_connections", "100"),
            ("huge_pages", "off"),
            ("logging_collector", "off"),
            ("log_line_prefix", "%m [%p] "),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let port = self.options.port.to_string();
        let given = self.options.settings.iter().map(|(name, value)| (name.as_str(), &**value));
        for (name, value) in own.into_iter().chain([("port", &*port)]).chain(given) {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(self.options.data_dir.join("pghc.conf"), text)
            .map_err(Error::io("write pghc.conf"))
    }
}
