//! The cluster under test: three zones, each with a PostgreSQL, API nodes and a coordinator, every
//! one a real process on a disk of its own.

mod ground;
mod members;
mod repair;
mod replacements;
mod servers;
mod unit;
mod view;
mod volume;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pghc_dev::postgres::{DATABASE, Install, SUPERUSER};
use pghc_runtime::rpc::v1::ZoneReport;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use tokio::process::Command;
use tokio_postgres::NoTls;

pub use ground::{Build, Ground, NAMES, ZONES};
pub use repair::FOUND_MAX;
pub use replacements::Replacements;
use servers::Template;
pub use unit::Unit;
pub use view::{Look, View};
pub use volume::Volume;

/// Bytes of a disk for a coordinator, and for a database; images are sparse.
const DISK_BYTES: (u64, u64) = (2 << 30, 6 << 30);
/// Log bytes from which coordinators purge, and up to which a zone that is away holds that up: small, so
/// that every epoch purges.
const LOG_BYTES: (&str, &str) = ("2097152", "134217728");

/// Longest wait for a coordinator's answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Directory of a coordinator on its disk.
const LOG: &str = "log";

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
    /// The machine under the cluster.
    pub ground: Ground,
    /// Its id.
    pub id: String,
    /// Its zones, in the order of [`NAMES`].
    pub zones: Vec<Zone>,
    /// Replaced coordinators and servers.
    pub replacements: Arc<Replacements>,
    install: Install,
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
        let (replacements, mut zones) = (Arc::new(Replacements::default()), Vec::new());
        for zone in 0..ZONES {
            zones.push(new_zone(&ground, &id, zone, (&template, &replacements))?);
        }
        let cluster = Arc::new(Self { ground, id, zones, replacements, install: template.install });
        for zone in 0..ZONES {
            // Started one by one: the data directories have the same inode, from which PostgreSQL
            // derives its shared memory key, and two servers that search a free key at once may
            // give up.
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
        self.dsn_of(zone, self.replacements.server(zone))
    }

    fn dsn_of(&self, zone: usize, server: usize) -> String {
        format!("postgres://{SUPERUSER}@{}/{DATABASE}", self.ground.postgres(zone, server))
    }

    /// A connection to a zone's database; it ends when the client is dropped.
    ///
    /// # Errors
    /// When it does not answer within some seconds.
    pub async fn sql(&self, zone: usize) -> anyhow::Result<Sql> {
        connect(&self.dsn(zone)).await
    }

    /// A connection to a zone's database as another login.
    ///
    /// # Errors
    /// When it does not answer within some seconds.
    pub async fn sql_as(&self, zone: usize, login: &str) -> anyhow::Result<Sql> {
        let address = self.ground.postgres(zone, self.replacements.server(zone));
        connect(&format!("postgres://{login}@{address}/{DATABASE}")).await
    }

    /// A connection to a certain server of a zone.
    ///
    /// # Errors
    /// When it does not answer within some seconds.
    pub async fn sql_of(&self, zone: usize, server: usize) -> anyhow::Result<Sql> {
        connect(&self.dsn_of(zone, server)).await
    }

    /// First id that the coordinator of a zone can feed other zones with; `None` when it does not answer.
    pub async fn log_first(&self, zone: usize) -> Option<u64> {
        let url = format!("http://{}", self.ground.coordinator(zone));
        let caller = pghc_runtime::rpc::connect(&url, &self.id.parse().ok()?, ANSWER_MAX).ok()?;
        let mut client = CoordinatorClient::new(caller);
        let asked = client.report(ZoneReport::default());
        let answer = tokio::time::timeout(ANSWER_MAX, asked).await.ok()?.ok()?;
        Some(answer.into_inner().log_first_id)
    }

    /// Kills everything, for the end of a run.
    pub async fn put_down(&self) {
        for unit in self.units() {
            unit.put_down().await;
        }
    }
}

impl Zone {
    /// Directory of its coordinator.
    pub fn log_data(&self) -> PathBuf {
        self.log_disk.path().join(LOG)
    }

    /// Its processes.
    pub fn units(&self) -> impl Iterator<Item = &Unit> {
        [&self.postgres, &self.coordinator].into_iter().chain(&self.api)
    }
}

/// A connection and its task; both end when this is dropped.
pub struct Sql {
    client: tokio_postgres::Client,
    _tasks: pghc_runtime::task::Tasks,
}

/// Longest time that one statement of ours may take.
const STATEMENT_MAX: Duration = Duration::from_secs(60);

async fn connect(dsn: &str) -> anyhow::Result<Sql> {
    let connecting = tokio_postgres::connect(dsn, NoTls);
    let connected = tokio::time::timeout(Duration::from_secs(3), connecting).await;
    let (client, connection) = connected.context("PostgreSQL does not answer")??;
    let tasks = pghc_runtime::task::Tasks::default();
    tasks.spawn("connection", async move {
        // The caller that waits for a statement gets the error.
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

fn new_zone(
    ground: &Ground,
    id: &str,
    zone: usize,
    (template, replacements): (&Template, &Arc<Replacements>),
) -> anyhow::Result<Zone> {
    let name = NAMES[zone];
    let volume = |part: &str, bytes| {
        Volume::create(&ground.work, &format!("{name}-{part}"), bytes, ground.sandbox)
    };
    let (log_disk, data_disk) = (volume("log", DISK_BYTES.0)?, volume("data", DISK_BYTES.1)?);
    let unit = |part: &str, make: unit::Make| {
        let log = ground.logs().join(format!("{name}-{part}.log"));
        Unit::new(format!("{name}/{part}"), log, make)
    };
    let postgres =
        unit("postgres", servers::postgres(ground, zone, (template, replacements), &data_disk)?);
    let coordinator = unit("coordinator", coordinator(ground, id, zone, (replacements, &log_disk)));
    // The last zone has two API nodes: one applies, the other is the standby.
    let nodes = if zone == ZONES - 1 { 2 } else { 1 };
    let api =
        (0..nodes).map(|node| unit(&format!("api-{}", node + 1), api(ground, id, zone, node)));
    let api = api.collect();
    Ok(Zone { coordinator, api, postgres, log_disk, data_disk })
}

fn coordinator(
    ground: &Ground,
    id: &str,
    zone: usize,
    (replacements, disk): (&Arc<Replacements>, &Volume),
) -> unit::Make {
    let (ground, id, disk) = (ground.clone(), id.to_owned(), disk.path().to_owned());
    let replacements = Arc::clone(replacements);
    Box::new(move |build| {
        let mut command = ground.command(zone, &ground.pghc(build));
        command.args(["coordinator", "--cluster-id", &id, "--zone", NAMES[zone]]);
        command.arg("--id").arg(replacements.coordinator(zone).to_string());
        command.arg("--data").arg(disk.join(LOG));
        command.arg("--listen").arg(ground.coordinator(zone).to_string());
        for other in 0..ZONES {
            command.arg("--member").arg(replacements.member(&ground, other));
        }
        if !replacements.is_founder(zone) {
            command.arg("--join");
        }
        command.args(["--profile", "lan", "--log-bytes", LOG_BYTES.0]);
        command.args(["--log-bytes-max", LOG_BYTES.1]);
        common(&mut command, &ground);
        crate::faults::clock::preload(&mut command, &ground, zone);
        // The disk can only be powered on again when no process works in it.
        command.current_dir(&disk);
        Ok(command)
    })
}

fn api(ground: &Ground, id: &str, zone: usize, node: usize) -> unit::Make {
    let (ground, id) = (ground.clone(), id.to_owned());
    Box::new(move |build| {
        let mut command = ground.command(zone, &ground.pghc(build));
        command.args(["api", "--cluster-id", &id, "--zone", NAMES[zone]]);
        command.arg("--node").arg(format!("{}-{}", NAMES[zone], node + 1));
        // The zone's own server, over the loopback of the zone, so no network fault cuts it off. Of
        // two servers, the one that takes writes is the zone's.
        let [one, other] = [0, 1].map(|server| ground.postgres(zone, server).port());
        let dsn = format!(
            "host=127.0.0.1,127.0.0.1 port={one},{other} user={SUPERUSER} dbname={DATABASE} \
             target_session_attrs=read-write"
        );
        command.arg("--database").arg(dsn);
        // No load balancer polls it. An older build ignores the variable.
        command.env("PGHC_DRAIN_S", "0");
        command.arg("--listen").arg(ground.api(zone, node).to_string());
        command.arg("--advertise").arg(format!("http://{}", ground.api(zone, node)));
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
