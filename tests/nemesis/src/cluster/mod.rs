//! The cluster under test: three zones, each with a PostgreSQL, API nodes and a coordinator, every
//! one a real process on a disk of its own.

mod ground;
mod unit;
mod view;
mod volume;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pghc::dev::postgres::{DATABASE, Install, SUPERUSER};
use tokio::process::Command;
use tokio_postgres::NoTls;

pub use ground::{Ground, NAMES, ZONES};
pub use unit::Unit;
pub use view::{Look, View};
pub use volume::Volume;

/// Bytes of a disk for a coordinator, and for a database; images are sparse.
const DISK_BYTES: (u64, u64) = (2 << 30, 6 << 30);
/// Longest time until a fresh server answers.
const READY_MAX: Duration = Duration::from_secs(60);
/// Log bytes from which coordinators purge: small, so that a run purges.
const LOG_BYTES: &str = "33554432";

/// One zone.
pub struct Zone {
    /// Its coordinator.
    pub coordinator: Unit,
    /// Its API nodes.
    pub api: Vec<Unit>,
    /// Its postmaster.
    pub postgres: Unit,
    /// The coordinator's disk.
    pub log_disk: Volume,
    /// The database's disk.
    pub data_disk: Volume,
}

/// All zones.
pub struct Cluster {
    /// What it stands on.
    pub ground: Ground,
    /// Its id.
    pub id: String,
    /// Its zones, in the order of [`NAMES`].
    pub zones: Vec<Zone>,
}

impl Cluster {
    /// Creates disks and databases, starts everything, and waits until databases answer.
    ///
    /// # Errors
    /// When something cannot be made or started.
    pub async fn start(ground: Ground) -> anyhow::Result<Arc<Self>> {
        std::fs::create_dir_all(ground.logs())?;
        let id = uuid::Uuid::new_v4().to_string();
        let template = Template::create(&ground).await?;
        let mut zones = Vec::new();
        for zone in 0..ZONES {
            zones.push(new_zone(&ground, &id, zone, &template)?);
        }
        let cluster = Arc::new(Self { ground, id, zones });
        for zone in 0..ZONES {
            // One by one: their data directories have the same inode, from which PostgreSQL makes the
            // key of its shared memory, and two that look for a free one at once may give up.
            cluster.zones[zone].postgres.start().await?;
            cluster.create_database(zone).await?;
        }
        for zone in &cluster.zones {
            zone.data_disk.sync()?;
            zone.log_disk.sync()?;
        }
        for unit in cluster.units().filter(|unit| !unit.name.ends_with("postgres")) {
            unit.start().await?;
        }
        Ok(cluster)
    }

    /// Every process.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        self.zones.iter().flat_map(Zone::units)
    }

    /// Address of every API node with its zone.
    pub fn nodes(&self) -> Vec<(usize, SocketAddr)> {
        let nodes = |zone: usize| {
            let ground = self.ground.clone();
            (0..self.zones[zone].api.len()).map(move |node| (zone, ground.api(zone, node)))
        };
        (0..ZONES).flat_map(nodes).collect()
    }

    /// Connection string of a zone's database, as reached from here.
    pub fn dsn(&self, zone: usize) -> String {
        format!("postgres://{SUPERUSER}@{}/{DATABASE}", self.ground.postgres(zone))
    }

    /// A connection to a zone's database; it ends when the client is dropped.
    ///
    /// # Errors
    /// When it does not answer within some seconds.
    pub async fn sql(&self, zone: usize) -> anyhow::Result<Sql> {
        connect(&self.dsn(zone)).await
    }

    async fn create_database(&self, zone: usize) -> anyhow::Result<()> {
        let dsn = format!("postgres://{SUPERUSER}@{}/postgres", self.ground.postgres(zone));
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

    /// Kills everything, for the end of a run.
    pub async fn put_down(&self) {
        for unit in self.units() {
            unit.put_down().await;
        }
    }
}

impl Zone {
    /// Its processes.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        [&self.postgres, &self.coordinator].into_iter().chain(&self.api)
    }
}

/// A connection and its task; both end when this is dropped.
pub struct Sql {
    client: tokio_postgres::Client,
    _tasks: pghc::task::Tasks,
}

/// Longest time that one statement of ours may take.
const STATEMENT_MAX: Duration = Duration::from_secs(60);

async fn connect(dsn: &str) -> anyhow::Result<Sql> {
    let connecting = tokio_postgres::connect(dsn, NoTls);
    let connected = tokio::time::timeout(Duration::from_secs(3), connecting).await;
    let (client, connection) = connected.context("PostgreSQL does not answer")??;
    let tasks = pghc::task::Tasks::default();
    tasks.spawn("connection", async move {
        // Its error comes to whoever waits for a statement.
        let _ = connection.await;
    });
    Ok(Sql { client, _tasks: tasks })
}

impl Sql {
    /// Rows of a query without parameters.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn query(&self, text: &str) -> anyhow::Result<Vec<tokio_postgres::Row>> {
        let rows = tokio::time::timeout(STATEMENT_MAX, self.client.query(text, &[])).await;
        Ok(rows.context("PostgreSQL does not answer")??)
    }

    /// Runs statements.
    ///
    /// # Errors
    /// When they fail or take too long.
    pub async fn batch(&self, text: &str) -> anyhow::Result<()> {
        let done = tokio::time::timeout(STATEMENT_MAX, self.client.batch_execute(text)).await;
        Ok(done.context("PostgreSQL does not answer")??)
    }
}

/// An initialised data directory that every zone copies.
struct Template {
    install: Install,
    directory: PathBuf,
}

impl Template {
    async fn create(ground: &Ground) -> anyhow::Result<Self> {
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
        let hba = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all 10.77.0.0/24 trust\n";
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

fn new_zone(ground: &Ground, id: &str, zone: usize, template: &Template) -> anyhow::Result<Zone> {
    let name = NAMES[zone];
    let volume = |part: &str, bytes| {
        Volume::create(&ground.work, &format!("{name}-{part}"), bytes, ground.sandbox)
    };
    let (log_disk, data_disk) = (volume("log", DISK_BYTES.0)?, volume("data", DISK_BYTES.1)?);
    let unit = |part: &str, make: unit::Make| {
        let log = ground.logs().join(format!("{name}-{part}.log"));
        Unit::new(format!("{name}/{part}"), log, make)
    };
    let postgres = unit("postgres", postgres(ground, zone, template, &data_disk)?);
    let coordinator = unit("coordinator", coordinator(ground, id, zone, &log_disk));
    // The last zone has two API nodes: one applies, the other stands by.
    let nodes = if zone == ZONES - 1 { 2 } else { 1 };
    let api =
        (0..nodes).map(|node| unit(&format!("api-{}", node + 1), api(ground, id, zone, node)));
    let api = api.collect();
    Ok(Zone { coordinator, api, postgres, log_disk, data_disk })
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

fn postgres(
    ground: &Ground,
    zone: usize,
    template: &Template,
    disk: &Volume,
) -> anyhow::Result<unit::Make> {
    let data = disk.path().join("pg");
    let (from, to) = (template.directory.to_string_lossy(), data.to_string_lossy());
    crate::sandbox::tool(&["cp", "-a", &from, &to])?;
    let address = ground.postgres(zone);
    let mut settings = format!("listen_addresses = '*'\nport = {}\n", address.port());
    if !ground.sandbox {
        settings = format!("listen_addresses = '127.0.0.1'\nport = {}\n", address.port());
    }
    for (name, value) in SERVER {
        settings.push_str(&format!("{name} = '{value}'\n"));
    }
    std::fs::write(data.join("postgresql.auto.conf"), settings)?;
    let (ground, server) = (ground.clone(), template.install.bin.join("postgres"));
    Ok(Box::new(move || {
        let mut command = match Ground::postgres_user() {
            // The network's namespace can only be entered as root, so the user changes after it.
            Some((user, group)) => {
                let mut command = ground.command(zone, Path::new("setpriv"));
                command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
                command.arg("--clear-groups").arg(&server);
                command
            }
            None => ground.command(zone, &server),
        };
        command.arg("-D").arg(&data).current_dir(&data).env("LC_ALL", "C");
        Ok(command)
    }))
}

fn coordinator(ground: &Ground, id: &str, zone: usize, disk: &Volume) -> unit::Make {
    let (ground, id, disk) = (ground.clone(), id.to_owned(), disk.path().to_owned());
    Box::new(move || {
        let mut command = ground.command(zone, &ground.binary("pghc"));
        command.args(["coordinator", "--cluster-id", &id, "--zone", NAMES[zone]]);
        command.arg("--id").arg((zone + 1).to_string()).arg("--data").arg(disk.join("log"));
        command.arg("--listen").arg(ground.coordinator(zone).to_string());
        for (other, name) in NAMES.iter().enumerate() {
            let address = ground.coordinator(other);
            command.arg("--member").arg(format!("{}={name}=http://{address}", other + 1));
        }
        command.args(["--profile", "lan", "--log-bytes", LOG_BYTES]);
        common(&mut command, &ground);
        crate::faults::clock::preload(&mut command, &ground, zone);
        // The power of its disk can only be switched on again when nobody works in it.
        command.current_dir(&disk);
        Ok(command)
    })
}

fn api(ground: &Ground, id: &str, zone: usize, node: usize) -> unit::Make {
    let (ground, id) = (ground.clone(), id.to_owned());
    Box::new(move || {
        let mut command = ground.command(zone, &ground.binary("pghc"));
        command.args(["api", "--cluster-id", &id, "--zone", NAMES[zone]]);
        command.arg("--node").arg(format!("{}-{}", NAMES[zone], node + 1));
        let database = ground.postgres(zone);
        // Its own zone's, by the loopback of that zone: no fault of the network cuts it off.
        let dsn = format!("postgres://{SUPERUSER}@127.0.0.1:{}/{DATABASE}", database.port());
        command.arg("--database").arg(dsn);
        command.arg("--listen").arg(ground.api(zone, node).to_string());
        for step in 0..ZONES {
            let address = ground.coordinator((zone + step) % ZONES);
            command.arg("--coordinator").arg(format!("http://{address}"));
        }
        common(&mut command, &ground);
        Ok(command)
    })
}

fn common(command: &mut Command, ground: &Ground) {
    command.arg("--lifeline");
    if ground.sandbox {
        command.arg("--insecure-network");
    }
}
