//! Rows a second of the apply statement against the same rows inserted bare: no guard, no frontier
//! and no notification. Both sides run in the same process, in turns.
//!
//! `cargo run --release --example apply_rates -- postgres://postgres@127.0.0.1:21000 [seconds]`
//! The databases `pghc_rates` and `pghc_rates_bare` of that server are dropped and made anew.

use std::time::{Duration, Instant};

use futures::stream::{FuturesOrdered, StreamExt as _};
use pghc_api::chain::{Head, Link, payload_digest};
use pghc_api::id::{ClusterId, NodeName};
use pghc_api::time::Micros;
use pghc_postgres::{Acquired, Applier, Batch, Commit, Dsn, Role, migrate};
use pghc_runtime::task::Tasks;
use tokio_postgres::Client;

const CLUSTER: &str = "00000000-0000-4000-8000-000000000001";

type Failure = Box<dyn std::error::Error>;

/// Makes links without end.
struct Source {
    cluster: ClusterId,
    node: NodeName,
    head: Option<Head>,
}

impl Source {
    fn new(head: Option<Head>) -> Result<Self, Failure> {
        Ok(Self { cluster: CLUSTER.parse()?, node: "api-1".parse()?, head })
    }

    fn links(&mut self, count: usize) -> Vec<Link> {
        (0..count).map(|_| self.link()).collect()
    }

    fn batch(&mut self, count: usize) -> Batch {
        let before = self.head.map(|head| head.digest);
        Batch::new(before, self.links(count))
    }

    fn link(&mut self) -> Link {
        let number = self.head.map_or(1, |head| head.id.get() + 1);
        let payload = format!("{{\"n\":{number},\"text\":\"{number:180}\"}}");
        let digest = payload_digest(payload.as_bytes());
        let at = Micros(1_700_000_000_000_000 + number.cast_signed());
        let head = Head::extend(self.head.as_ref(), &self.cluster, &self.node, at, Some(digest));
        self.head = Some(head);
        let Head { id, hash, digest, written_at } = head;
        let payload = Some(payload.into());
        Link { id, node: self.node.clone(), hash, digest, written_at, payload }
    }
}

/// Processor time in microseconds that the server's process `pid` has used. It says what the wall
/// clock cannot on a busy machine; 0 where the server is elsewhere.
fn cpu_us(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

/// Process id of the newest session of this name.
async fn backend(admin: &Client, name: &str) -> Result<i32, Failure> {
    let sql = "select pid from pg_stat_activity where application_name = $1 and datname like \
               'pghc_rates%' order by backend_start desc limit 1";
    Ok(admin.query_one(sql, &[&name]).await?.get(0))
}

/// Rows a second, median milliseconds of one transaction, and rows in all.
fn rate(batch: usize, mut laps: Vec<Duration>, spent: Duration) -> (f64, f64, f64) {
    laps.sort();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rows = (batch * laps.len()) as f64 / spent.as_secs_f64();
    (
        rows,
        laps.get(laps.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3,
        rows * spent.as_secs_f64(),
    )
}

async fn guarded(
    applier: &Applier,
    epoch: u64,
    source: &mut Source,
    size: usize,
    depth: usize,
    time: Duration,
) -> Result<(f64, f64, f64), Failure> {
    // Hashing is not what is measured: the links are made before the clock starts.
    let mut spent = Duration::ZERO;
    let mut laps = Vec::new();
    while spent < time {
        let batches: Vec<Batch> =
            (0..(20_000 / size).clamp(10, 2_000)).map(|_| source.batch(size)).collect();
        let began = Instant::now();
        let mut under_way = FuturesOrdered::new();
        for batch in &batches {
            if under_way.len() == depth {
                let lap: Result<Duration, pghc_postgres::ApplyError> =
                    under_way.next().await.expect("some are under way");
                laps.push(lap?);
            }
            under_way.push_back(async move {
                let lap = Instant::now();
                applier.apply(epoch, batch).await?;
                Ok(lap.elapsed())
            });
        }
        while let Some(lap) = under_way.next().await {
            laps.push(lap?);
        }
        spent += began.elapsed();
    }
    Ok(rate(size, laps, spent))
}

async fn bare(
    client: &Client,
    source: &mut Source,
    size: usize,
    time: Duration,
) -> Result<(f64, f64, f64), Failure> {
    let insert = client
        .prepare(
            "insert into bare select u.* from unnest($1::bigint[], $2::text[], $3::bpchar[],
             $4::bytea[], $5::timestamptz[], $6::json[]) u",
        )
        .await?;
    let (mut spent, mut laps) = (Duration::ZERO, Vec::new());
    while spent < time {
        let columns: Vec<_> = (0..(20_000 / size).clamp(10, 2_000))
            .map(|_| {
                let links = source.links(size);
                (
                    links.iter().map(|l| l.id.as_i64()).collect::<Vec<_>>(),
                    links.iter().map(|l| l.node.to_string()).collect::<Vec<_>>(),
                    links.iter().map(|l| l.hash.to_string()).collect::<Vec<_>>(),
                    links.iter().map(|l| l.digest.0.to_vec()).collect::<Vec<_>>(),
                    links
                        .iter()
                        .map(|l| {
                            jiff::Timestamp::from_microsecond(l.written_at.0).unwrap_or_default()
                        })
                        .collect::<Vec<_>>(),
                    links
                        .iter()
                        .map(|l| {
                            l.payload.as_deref().map(|text| {
                                tokio_postgres::types::Json(
                                    serde_json::value::RawValue::from_string(text.to_owned()).ok(),
                                )
                            })
                        })
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        let began = Instant::now();
        for (ids, nodes, hashes, digests, times, payloads) in &columns {
            let lap = Instant::now();
            client.execute(&insert, &[ids, nodes, hashes, digests, times, payloads]).await?;
            laps.push(lap.elapsed());
        }
        spent += began.elapsed();
    }
    Ok(rate(size, laps, spent))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("which server? give a postgres:// URL without database")?;
    let time = Duration::from_secs(arguments.next().map_or(Ok(2), |text| text.parse())?);
    let tasks = Tasks::default();
    let admin: Dsn = format!("{server}/postgres").parse()?;
    let admin = admin.connect(Role::Login, "rates", &tasks).await?;
    for name in ["pghc_rates", "pghc_rates_bare"] {
        admin.batch_execute(&format!("drop database if exists {name} with (force)")).await?;
        admin
            .batch_execute(&format!("create database {name} template template0 encoding utf8"))
            .await?;
    }
    let dsn: Dsn = format!("{server}/pghc_rates").parse()?;
    migrate(&dsn, &CLUSTER.parse()?, &"eu".parse()?, &tasks).await?;
    let plain: Dsn = format!("{server}/pghc_rates_bare").parse()?;
    let plain = plain.connect(Role::Login, "rates", &tasks).await?;
    plain
        .batch_execute(
            "set search_path = public; create table bare (id bigint primary key, node_id text not null,
             hash char(32) not null, digest bytea not null, written_at timestamptz not null, payload json)",
        )
        .await?;
    let mut bare_source = Source::new(None)?;
    for commit in [Commit::OnDisk, Commit::InMemory] {
        let setting = if commit == Commit::OnDisk { "on" } else { "off" };
        plain.batch_execute(&format!("set synchronous_commit = {setting}")).await?;
        let applier = Applier::connect(&dsn, commit, &tasks).await?;
        let Acquired::Granted { epoch, head } = applier.acquire(&"api-1".parse()?, None).await?
        else {
            return Err("another applier is at work".into());
        };
        let mut source = Source::new(head)?;
        let bare_pid = backend(&admin, "pghc rates").await?;
        let pid = backend(&admin, "pghc applier").await?;
        for size in [1, 10, 100, 1_000] {
            let before = cpu_us(bare_pid);
            let (bare_rows, bare_ms, bare_count) =
                bare(&plain, &mut bare_source, size, time).await?;
            let between = (cpu_us(bare_pid), cpu_us(pid));
            let (rows, ms, count) = guarded(&applier, epoch, &mut source, size, 1, time).await?;
            let after = cpu_us(pid);
            let (deep_rows, deep_ms, _) =
                guarded(&applier, epoch, &mut source, size, 2, time).await?;
            let bare_cpu = (between.0 - before) / bare_count;
            let cpu = (after - between.1) / count;
            println!(
                "server {bare_cpu:.2} and {cpu:.2} us/row; sync={setting} batch={size}: bare {bare_rows:.0} rows/s {bare_ms:.3} ms; apply \
                 {rows:.0} rows/s {ms:.3} ms ({:.2}); two under way {deep_rows:.0} rows/s \
                 {deep_ms:.3} ms ({:.2})",
                rows / bare_rows,
                deep_rows / bare_rows,
            );
        }
    }
    tasks.shut_down().await;
    Ok(())
}
