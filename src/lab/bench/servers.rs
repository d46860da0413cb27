//! PostgreSQL servers of our own: bare ones, and a primary with synchronous replicas.
//!
//! The table, the rows and the servers' settings are those of a deployment. Servers are stopped while
//! another environment is up, so that their background work does not disturb its measurement.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use pghc_dev::postgres::{Server, ServerOptions};
use pghc_runtime::task::Tasks;
use tokio_postgres::{Client, NoTls};

const TABLE: &str = include_str!("../../../sql/bench/table.sql");

/// Bare servers written to at once, as a deployment of three zones does.
const BARE: usize = 3;

/// Names of the replicas.
const REPLICAS: [&str; 2] = ["bench1", "bench2"];

/// Where ports are looked for: below those of outgoing connections, so that a port is still free
/// when its server comes back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Ports tried before giving up.
const PORT_TRIES: usize = 1_000;

/// Longest wait until both replicas stream.
const STREAMING_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Servers that come and go together. The first one is written to first.
#[derive(Debug)]
pub(super) struct Servers {
    servers: Vec<Server>,
    /// Whether the first is the primary of the others.
    replicated: bool,
}

impl Servers {
    /// Starts bare servers below `directory` and makes the table in each.
    ///
    /// # Errors
    /// When a server cannot be started.
    pub(super) async fn bare(directory: &Path, tasks: &Tasks) -> anyhow::Result<Self> {
        let mut starting = Vec::with_capacity(BARE);
        for place in 0..BARE {
            starting.push(Server::start(options(directory, &format!("bare{place}"))?));
        }
        let servers = Self { servers: try_join_all(starting).await?, replicated: false };
        for client in servers.connect_each(tasks).await? {
            client.batch_execute(TABLE).await?;
        }
        Ok(servers)
    }

    /// Starts a primary and two replicas below `directory`, one of which must have applied a commit
    /// before it is answered.
    ///
    /// # Errors
    /// When a server cannot be started or does not replicate.
    pub(super) async fn replicated(directory: &Path, tasks: &Tasks) -> anyhow::Result<Self> {
        let primary = Server::start(options(directory, "primary")?).await?;
        connect(&primary, tasks).await?.batch_execute(TABLE).await?;
        let mut servers = vec![primary];
        for name in REPLICAS {
            let replica = servers[0].replica(name, options(directory, name)?).await;
            servers.push(replica.with_context(|| format!("cannot make replica {name}"))?);
        }
        let servers = Self { servers, replicated: true };
        let client = connect(&servers.servers[0], tasks).await?;
        // Kept by the server over restarts, and read after the settings that all servers share.
        let names = format!("ANY 1 ({})", REPLICAS.join(", "));
        for (name, value) in
            [("synchronous_standby_names", names.as_str()), ("synchronous_commit", "remote_apply")]
        {
            client.batch_execute(&format!("alter system set {name} = '{value}'")).await?;
        }
        client.batch_execute("select pg_reload_conf()").await?;
        servers.await_replicas(tasks).await?;
        Ok(servers)
    }

    /// Starts them again after [`Servers::rest`].
    ///
    /// # Errors
    /// When one does not start, or replicas do not stream.
    pub(super) async fn wake(&mut self, tasks: &Tasks) -> anyhow::Result<()> {
        try_join_all(self.servers.iter_mut().map(Server::restart)).await?;
        if self.replicated {
            self.await_replicas(tasks).await?;
        }
        Ok(())
    }

    /// Stops them; what they hold is on disk then.
    ///
    /// # Errors
    /// When the operating system does not tell what became of one.
    pub(super) async fn rest(&mut self) -> anyhow::Result<()> {
        // The primary first: it waits until its replicas have everything.
        for server in &mut self.servers {
            server.stop().await?;
        }
        Ok(())
    }

    /// A connection to each.
    ///
    /// # Errors
    /// When one takes none.
    pub(super) async fn connect_each(&self, tasks: &Tasks) -> anyhow::Result<Vec<Client>> {
        try_join_all(self.servers.iter().map(|server| connect(server, tasks))).await
    }

    /// Opens `count` connections to the first server.
    ///
    /// # Errors
    /// When it takes none.
    pub(super) async fn connect_first(
        &self,
        count: usize,
        tasks: &Tasks,
    ) -> anyhow::Result<Vec<Client>> {
        try_join_all((0..count).map(|_| connect(&self.servers[0], tasks))).await
    }

    /// Waits until the primary has its synchronous replicas; an earlier commit would wait forever.
    async fn await_replicas(&self, tasks: &Tasks) -> anyhow::Result<()> {
        let client = connect(&self.servers[0], tasks).await?;
        let deadline = tokio::time::Instant::now() + STREAMING_MAX;
        let streaming = "select count(*) from pg_catalog.pg_stat_replication \
                         where state = 'streaming' and sync_state = 'quorum'";
        loop {
            let count: i64 = client.query_one(streaming, &[]).await?.try_get(0)?;
            if count == REPLICAS.len().cast_signed() as i64 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                bail!("{count} of {} replicas stream after {STREAMING_MAX:?}", REPLICAS.len());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn options(directory: &Path, name: &str) -> anyhow::Result<ServerOptions> {
    let free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = (0..PORT_TRIES).map(|_| rand::random_range(PORTS));
    let port = ports.find(free).with_context(|| format!("no free port in {PORTS:?}"))?;
    Ok(ServerOptions { temporary: true, ..ServerOptions::new(directory.join(name), port) })
}

async fn connect(server: &Server, tasks: &Tasks) -> anyhow::Result<Client> {
    connect_to(&server.dsn(), tasks).await
}

/// A connection to the server of `dsn`; it ends with the client that is answered.
///
/// # Errors
/// When the server takes none.
pub(super) async fn connect_to(dsn: &str, tasks: &Tasks) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tasks.spawn("bench connection", async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "bench connection ended");
        }
    });
    Ok(client)
}
