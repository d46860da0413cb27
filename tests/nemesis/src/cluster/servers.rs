//! Every zone's PostgreSQL: its data directory, its process, and a copy that may take its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pghc_dev::postgres::{DATABASE, Install, SUPERUSER};
use pghc_dev::process::Process;
use tokio::process::Command;

use super::{Cluster, Ground, NAMES, Replacements, Volume, connect, unit};

/// Longest time until a fresh server answers.
const READY_MAX: Duration = Duration::from_secs(60);
/// Longest time until a server is copied.
const COPY_MAX: Duration = Duration::from_secs(180);

impl Cluster {
    pub(super) async fn create_database(&self, zone: usize) -> anyhow::Result<()> {
        let dsn = format!("postgres://{SUPERUSER}@{}/postgres", self.ground.postgres(zone, 0));
        let deadline = tokio::time::Instant::now() + READY_MAX;
        let sql = loop {
            match connect(&dsn).await {
                Ok(sql) => break sql,
                Err(error) => {
                    let late = tokio::time::Instant::now() >= deadline;
                    ensure!(!late, "PostgreSQL of {}: {error:#}", NAMES[zone]);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        sql.batch(&format!("create database {DATABASE}")).await
    }

    /// Copies a zone's server while it runs, to the data directory of the next one, and starts that
    /// one as a replica which streams from it.
    ///
    /// # Errors
    /// When it cannot be copied or started.
    pub async fn replica(&self, zone: usize) -> anyhow::Result<Process> {
        let (disk, number) = (self.zones[zone].data_disk.path(), self.replacements.server(zone));
        let mut copy = program(&self.ground, &self.install, zone, "pg_basebackup");
        copy.args(["-R", "-X", "stream", "-c", "fast", "-h", "127.0.0.1", "-U", SUPERUSER]);
        copy.arg("-p").arg(self.ground.postgres(zone, number).port().to_string());
        let data = Replacements::data(disk, number + 1);
        if data.exists() {
            // Remains of a failed attempt.
            std::fs::remove_dir_all(&data)?;
        }
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        own(&data)?;
        copy.arg("-D").arg(&data).current_dir(&data).kill_on_drop(true);
        let output = tokio::time::timeout(COPY_MAX, copy.output()).await;
        let output =
            output.context("pg_basebackup takes too long")?.context("run pg_basebackup")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = std::fs::File::options().append(true).open(&self.zones[zone].postgres.log)?;
        let mut command = server(&self.ground, &self.install, zone, (disk, number + 1));
        command.stdout(log.try_clone()?).stderr(log);
        let mut process = Process::default();
        process.spawn(&mut command)?;
        Ok(process)
    }
}

/// An initialised data directory that every zone copies.
pub(super) struct Template {
    pub(super) install: Install,
    directory: PathBuf,
}

impl Template {
    pub(super) async fn create(ground: &Ground) -> anyhow::Result<Self> {
        let install = Install::find()?;
        let directory = ground.work.join("template");
        std::fs::create_dir_all(&directory)?;
        own(&directory)?;
        let mut command = Command::new(install.bin.join("initdb"));
        command.arg("-D").arg(&directory).current_dir(&directory);
        command.args(["--data-checksums", "--encoding=UTF8", "--locale=C", "--auth=trust"]);
        command.args(["--username", SUPERUSER, "--no-instructions", "--no-sync"]);
        as_postgres(&mut command);
        let output = command.output().await.context("run initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let hba = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all 10.77.0.0/24 trust\n\
                   host replication all 127.0.0.1/32 trust\n";
        std::fs::write(directory.join("pg_hba.conf"), hba)?;
        Ok(Self { install, directory })
    }
}

fn own(directory: &Path) -> anyhow::Result<()> {
    if let Some((user, group)) = Ground::postgres_user() {
        std::os::unix::fs::chown(directory, Some(user), Some(group))?;
    }
    Ok(())
}

fn as_postgres(command: &mut Command) {
    if let Some((user, group)) = Ground::postgres_user() {
        command.uid(user).gid(group);
    }
}

/// Settings of every server: small, and with a checkpoint often enough that a run sees many.
const SERVER: [(&str, &str); 10] = [
    ("unix_socket_directories", ""),
    ("shared_buffers", "64MB"),
    ("max_connections", "60"),
    ("max_wal_size", "128MB"),
    ("checkpoint_timeout", "60s"),
    ("wal_recycle", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("huge_pages", "off"),
    ("restart_after_crash", "on"),
    ("timezone", "UTC"),
];

pub(super) fn postgres(
    ground: &Ground,
    zone: usize,
    (template, replacements): (&Template, &Arc<Replacements>),
    disk: &Volume,
) -> anyhow::Result<unit::Make> {
    let data = Replacements::data(disk.path(), 0);
    let (from, to) = (template.directory.to_string_lossy(), data.to_string_lossy());
    crate::sandbox::tool(&["cp", "-a", &from, &to])?;
    let listen = if ground.sandbox { "*" } else { "127.0.0.1" };
    let mut settings = format!("listen_addresses = '{listen}'\n");
    for (name, value) in SERVER {
        settings.push_str(&format!("{name} = '{value}'\n"));
    }
    std::fs::write(data.join("postgresql.auto.conf"), settings)?;
    let (ground, install) = (ground.clone(), template.install.clone());
    let (replacements, disk) = (Arc::clone(replacements), disk.path().to_owned());
    Ok(Box::new(move |_| Ok(server(&ground, &install, zone, (&disk, replacements.server(zone))))))
}

/// A program of PostgreSQL in the network of a zone, as the user of its servers.
fn program(ground: &Ground, install: &Install, zone: usize, name: &str) -> Command {
    let path = install.bin.join(name);
    match Ground::postgres_user() {
        // The network's namespace can only be entered as root, so the user changes after it.
        Some((user, group)) => {
            let mut command = ground.command(zone, Path::new("setpriv"));
            command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
            command.arg("--clear-groups").arg(path);
            command
        }
        None => ground.command(zone, &path),
    }
}

/// A server of a zone, by its number.
fn server(ground: &Ground, install: &Install, zone: usize, at: (&Path, usize)) -> Command {
    let data = Replacements::data(at.0, at.1);
    let mut command = program(ground, install, zone, "postgres");
    command.arg("-D").arg(&data).current_dir(&data).env("LC_ALL", "C");
    command.arg("-p").arg(ground.postgres(zone, at.1).port().to_string());
    command
}
