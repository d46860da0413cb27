//! Load on PostgreSQL without pghc: the raw limit of batches, and the single inserts of an
//! application.

use std::sync::atomic::{AtomicI64, Ordering};

use pghc_runtime::task::Tasks;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::closed::{Outcome, Tally, Window, together, work};
use super::measure::{PAYLOAD_BYTES, payload};
use super::servers::Servers;
use super::{load, open};

const INSERT_BATCH: &str = include_str!("../../../sql/bench/insert_batch.sql");
const INSERT_ONE: &str = include_str!("../../../sql/bench/insert_one.sql");
const NEWEST: &str = "select coalesce(max(id), 0) from public.bench_chain";

/// Rows of one batch.
const BATCH_ROWS: usize = 1_000;

/// Connections that insert single rows into a plain server.
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
    fn new() -> Self {
        let digit = |place: usize| u8::try_from(place % 256).unwrap_or_default();
        Self {
            nodes: vec!["eu-1".to_owned(); BATCH_ROWS],
            hashes: (0..BATCH_ROWS).map(|place| format!("{place:032x}")).collect(),
            digests: (0..BATCH_ROWS).map(|place| vec![digit(place); 32]).collect(),
            times: vec![jiff::Timestamp::now(); BATCH_ROWS],
            payloads: (0..BATCH_ROWS).map(|place| payload(place, PAYLOAD_BYTES)).collect(),
        }
    }

    async fn insert_batch(
        &self,
        client: &Client,
        insert: &Statement,
        after: i64,
    ) -> anyhow::Result<()> {
        let ids: Vec<i64> = (after + 1..=after + BATCH_ROWS.cast_signed() as i64).collect();
        let Self { nodes, hashes, digests, times, payloads } = self;
        client.execute(insert, &[&ids, nodes, hashes, digests, times, payloads]).await?;
        Ok(())
    }

    async fn insert_one(
        &self,
        client: &Client,
        insert: &Statement,
        id: i64,
    ) -> anyhow::Result<Outcome> {
        let place = usize::try_from(id).unwrap_or_default() % BATCH_ROWS;
        let Self { nodes, hashes, digests, times, payloads } = self;
        let row: [&(dyn ToSql + Sync); 6] =
            [&id, &nodes[place], &hashes[place], &digests[place], &times[place], &payloads[place]];
        client.execute(insert, &row).await?;
        Ok(Outcome::Done(1))
    }
}

async fn newest(client: &Client) -> anyhow::Result<i64> {
    Ok(client.query_one(NEWEST, &[]).await?.try_get(0)?)
}

/// The version of these servers.
///
/// # Errors
/// When it is not told.
pub(super) async fn version(client: &Client) -> anyhow::Result<String> {
    Ok(client.query_one("show server_version", &[]).await?.try_get(0)?)
}

/// Rows that the first `count` servers take at once in batches from one connection each, with this
/// `synchronous_commit`. The rate counts a row once although it is written `count` times.
///
/// # Errors
/// When a server refuses a row.
pub(super) async fn raw_limit(
    servers: &Servers,
    count: usize,
    commit: &str,
    window: impl Fn() -> Window,
    tasks: &Tasks,
) -> anyhow::Result<Tally> {
    let mut clients = Vec::new();
    for client in servers.connect_each(tasks).await?.into_iter().take(count) {
        // As the applier has it: planning each batch anew would slow the limit down.
        client.batch_execute("set plan_cache_mode = force_generic_plan").await?;
        client.batch_execute(&format!("set synchronous_commit = {commit}")).await?;
        let (insert, after) = (client.prepare(INSERT_BATCH).await?, newest(&client).await?);
        clients.push((client, insert, after));
    }
    let (rows, window) = (Rows::new(), window());
    let workers = clients.iter().map(async |(client, insert, after)| {
        let mut after = *after;
        work(window, async || {
            rows.insert_batch(client, insert, after).await?;
            after += BATCH_ROWS.cast_signed() as i64;
            Ok(Outcome::Done(BATCH_ROWS as u64))
        })
        .await
    });
    let mut tally = together(window, workers).await?;
    #[expect(clippy::cast_precision_loss, reason = "servers are few")]
    let count = count as f64;
    tally.units /= count;
    Ok(tally)
}

/// Single inserts, one transaction each, into the first server; `connections` are those of a plain
/// server when not given.
///
/// # Errors
/// When the server refuses a row.
pub(super) async fn single_inserts(
    servers: &Servers,
    connections: Option<usize>,
    window: impl Fn() -> Window,
    tasks: &Tasks,
) -> anyhow::Result<Tally> {
    let connections = connections.unwrap_or(CONNECTIONS);
    let mut clients = Vec::new();
    for client in servers.connect_first(connections, tasks).await? {
        let insert = client.prepare(INSERT_ONE).await?;
        clients.push((client, insert));
    }
    let next = AtomicI64::new(newest(&clients[0].0).await? + 1);
    let (rows, window) = (Rows::new(), window());
    let workers = clients.iter().map(async |(client, insert)| {
        work(window, async || {
            rows.insert_one(client, insert, next.fetch_add(1, Ordering::Relaxed)).await
        })
        .await
    });
    together(window, workers).await
}

/// Runs one client that inserts single rows into the first server at planned times.
///
/// # Errors
/// When the server refuses a row, or the client falls far behind its plan.
pub(super) async fn alone(
    servers: &Servers,
    window: impl Fn() -> Window,
    tasks: &Tasks,
) -> anyhow::Result<Tally> {
    let clients = servers.connect_first(1, tasks).await?;
    let client = &clients[0];
    let (insert, mut id) = (client.prepare(INSERT_ONE).await?, newest(client).await?);
    let rows = Rows::new();
    let insert_next = async || {
        id += 1;
        rows.insert_one(client, &insert, id).await
    };
    open::alone(load::ALONE_RATE, window(), insert_next).await
}
