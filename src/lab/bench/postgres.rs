//! What PostgreSQL does by itself: the raw limit of batches into three servers at once, and the
//! single inserts of an application without pghc.
//!
//! The table, the rows and the servers' settings are those of a parade. All servers of a phase are
//! stopped at its end, so that nothing of them runs while pghc is measured.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio_postgres::{Client, NoTls};

use super::closed::{Outcome, Tally, Window, together, work};
use crate::dev::postgres::{Server, ServerOptions};
use crate::dev::scratch::Scratch;
use crate::task::Tasks;

const TABLE: &str = include_str!("../../../sql/bench/table.sql");
const INSERT_BATCH: &str = include_str!("../../../sql/bench/insert_batch.sql");
const INSERT_ONE: &str = include_str!("../../../sql/bench/insert_one.sql");

/// Rows of one batch.
const BATCH_ROWS: usize = 1_000;

/// Servers written to at once, as a parade of three zones does.
const SERVERS: usize = 3;

/// Connections that insert single rows.
const CONNECTIONS: usize = 32;

/// The rows of a batch, column by column; only their ids change from batch to batch.
struct Rows {
    nodes: Vec<String>,
    hashes: Vec<String>,
    digests: Vec<Vec<u8>>,
    times: Vec<jiff::Timestamp>,
    payloads: Vec<String>,
}

impl Rows {
    fn new(count: usize) -> Self {
        let digit = |place: usize| u8::try_from(place % 256).unwrap_or_default();
        Self {
            nodes: vec!["eu-1".to_owned(); count],
            hashes: (0..count).map(|place| format!("{place:032x}")).collect(),
            digests: (0..count).map(|place| vec![digit(place); 32]).collect(),
            times: vec![jiff::Timestamp::now(); count],
            payloads: (0..count).map(super::payload).collect(),
        }
    }
}

/// Servers of a phase and where their data lies; both go with this value.
struct Servers {
    servers: Vec<Server>,
    _scratch: Scratch,
}

impl Servers {
    async fn start(count: usize) -> anyhow::Result<Self> {
        let scratch = Scratch::new("bench").context("cannot make a temporary directory")?;
        let mut starting = Vec::with_capacity(count);
        for place in 0..count {
            let data_dir = scratch.path().join(format!("pg{place}"));
            starting.push(Server::start(ServerOptions::new(data_dir, free_port()?)));
        }
        Ok(Self { servers: try_join_all(starting).await?, _scratch: scratch })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.stop().await?;
        }
        Ok(())
    }
}

/// A port nobody listens on now. It may be taken before it is used; the server then says so.
fn free_port() -> std::io::Result<u16> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

async fn connect(server: &Server, tasks: &Tasks) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(&server.dsn(), NoTls).await?;
    tasks.spawn("bench connection", async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "connection to a bench server ended");
        }
    });
    Ok(client)
}

/// The version of the PostgreSQL that all phases use.
///
/// # Errors
/// When a server cannot be started or asked.
pub(super) async fn version(tasks: &Tasks) -> anyhow::Result<String> {
    let servers = Servers::start(1).await?;
    let client = connect(&servers.servers[0], tasks).await?;
    let row = client.query_one("show server_version", &[]).await?;
    let version = row.try_get(0)?;
    servers.stop().await?;
    Ok(version)
}

/// Rows that three servers take at once in batches from one connection each. The rate counts a row
/// once although it is written three times.
///
/// # Errors
/// When a server cannot be started or refuses a row.
pub(super) async fn raw_limit(
    warm_up: Duration,
    length: Duration,
    tasks: &Tasks,
) -> anyhow::Result<Tally> {
    let servers = Servers::start(SERVERS).await?;
    let mut clients = Vec::new();
    for server in &servers.servers {
        let client = connect(server, tasks).await?;
        client.batch_execute(TABLE).await?;
        // As the applier has it: planning each batch anew would slow the limit down.
        client.batch_execute("set plan_cache_mode = force_generic_plan").await?;
        let insert = client.prepare(INSERT_BATCH).await?;
        clients.push((client, insert));
    }
    let rows = Rows::new(BATCH_ROWS);
    let window = Window::after(warm_up, length);
    let workers = clients.iter().map(async |(client, insert)| {
        let mut next = 1_i64;
        work(window, async || {
            let last = next + BATCH_ROWS.cast_signed() as i64;
            let ids: Vec<i64> = (next..last).collect();
            next = last;
            let Rows { nodes, hashes, digests, times, payloads } = &rows;
            client.execute(insert, &[&ids, nodes, hashes, digests, times, payloads]).await?;
            Ok(Outcome::Done(BATCH_ROWS as u64))
        })
        .await
    });
    let mut tally = together(window, workers).await?;
    tally.units /= SERVERS as f64;
    drop(clients);
    servers.stop().await?;
    Ok(tally)
}

/// Single inserts, one transaction each, into one server over many connections.
///
/// # Errors
/// When the server cannot be started or refuses a row.
pub(super) async fn single_inserts(
    warm_up: Duration,
    length: Duration,
    tasks: &Tasks,
) -> anyhow::Result<Tally> {
    let servers = Servers::start(1).await?;
    let mut clients = Vec::new();
    for place in 0..CONNECTIONS {
        let client = connect(&servers.servers[0], tasks).await?;
        if place == 0 {
            client.batch_execute(TABLE).await?;
        }
        let insert = client.prepare(INSERT_ONE).await?;
        clients.push((client, insert));
    }
    let rows = Rows::new(BATCH_ROWS);
    let next = AtomicI64::new(1);
    let window = Window::after(warm_up, length);
    let workers = clients.iter().map(async |(client, insert)| {
        work(window, async || {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let place = usize::try_from(id).unwrap_or_default() % BATCH_ROWS;
            let Rows { nodes, hashes, digests, times, payloads } = &rows;
            let row: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
                &id,
                &nodes[place],
                &hashes[place],
                &digests[place],
                &times[place],
                &payloads[place],
            ];
            client.execute(insert, &row).await?;
            Ok(Outcome::Done(1))
        })
        .await
    });
    let tally = together(window, workers).await?;
    drop(clients);
    servers.stop().await?;
    Ok(tally)
}
