//! The check at the end of an epoch: reads every zone's chain from its PostgreSQL, checks the whole
//! history against it, and runs `chain-verify`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pghc_api::chain::{Digest, payload_digest};
use pghc_api::id::ClusterId;
use pghc_api::time::Micros;
use pghc_history::{Chain, History, Link, Options, Snapshot, Verdict, check, jsonl};

use crate::cluster::{Cluster, NAMES, ZONES};
use crate::faults::until;
use crate::load::Book;
use crate::run::CONVERGE_MAX;

/// Links read at a time.
const PAGE_LINKS: u64 = 50_000;
/// Pause between two snapshots of a zone.
const POLL: Duration = Duration::from_secs(1);
/// Most lines of a broken history that are shown.
const LINES_MAX: usize = 60;

/// The chains read until now.
pub struct Checker {
    cluster: ClusterId,
    /// Each zone's chain.
    pub chains: Vec<Chain>,
    verified: u64,
    /// Times `chain-verify` proved all zones.
    pub proofs: u64,
}

impl Checker {
    /// Nothing read yet.
    ///
    /// # Errors
    /// Never for an id that is a UUID.
    pub fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let chain =
            |zone: usize| Chain { zone: u16::try_from(zone).unwrap_or(0), links: Vec::new() };
        let chains = (0..ZONES).map(chain).collect();
        let cluster = cluster.id.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { cluster, chains, verified: 0, proofs: 0 })
    }

    /// Reads what is new in every zone, checks the whole history, and verifies what is new. Answers
    /// what is wrong.
    ///
    /// # Errors
    /// When something could not be read.
    pub async fn check(
        &mut self,
        cluster: &Cluster,
        book: &Arc<Book>,
    ) -> anyhow::Result<Vec<String>> {
        for zone in 0..ZONES {
            read(cluster, &mut self.chains[zone], zone).await?;
        }
        let options = Options::new(self.cluster.clone());
        let mut wrong = tokio::task::block_in_place(|| {
            book.with_history(|history| {
                let report = check(history, &self.chains, &options);
                if report.verdict() == Verdict::Sound {
                    return Vec::new();
                }
                let text = report.render(history);
                vec![text.lines().take(LINES_MAX).collect::<Vec<_>>().join("\n")]
            })
        });
        wrong.extend(self.verify(cluster, self.verified + 1).await?);
        self.verified = self.chains[0].links.len() as u64;
        Ok(wrong)
    }

    /// Reads everything anew and verifies all of it: rows that changed behind our back show here.
    ///
    /// # Errors
    /// When something could not be read.
    pub async fn check_whole(
        &mut self,
        cluster: &Cluster,
        book: &Arc<Book>,
    ) -> anyhow::Result<Vec<String>> {
        self.chains.iter_mut().for_each(|chain| chain.links.clear());
        self.verified = 0;
        self.check(cluster, book).await
    }

    /// Everything that was seen, for a file.
    pub fn evidence(self, history: History) -> Evidence {
        let cluster = Some(self.cluster.clone());
        Evidence { cluster: self.cluster, run: jsonl::Run { cluster, history, zones: self.chains } }
    }

    async fn verify(&mut self, cluster: &Cluster, from: u64) -> anyhow::Result<Option<String>> {
        if from > self.chains[0].links.len() as u64 {
            return Ok(None);
        }
        let output = cluster.chain_verify(from).await?;
        if output.status.success() {
            self.proofs += 1;
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        Ok(Some(format!("chain-verify: {}\n{said}{complained}", output.status)))
    }
}

/// The history and the chains of a run that is over.
pub struct Evidence {
    cluster: ClusterId,
    run: jsonl::Run,
}

impl Evidence {
    /// Writes it as JSON lines.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, writer: impl std::io::Write) -> anyhow::Result<()> {
        self.run.write(writer, &self.cluster).context("write the history")
    }
}

async fn read(cluster: &Cluster, chain: &mut Chain, zone: usize) -> anyhow::Result<()> {
    // A busy machine may take several attempts.
    let sql = until("the database answers", CONVERGE_MAX, async || cluster.sql(zone).await.ok());
    let sql = sql.await?;
    loop {
        let after = chain.links.last().map_or(0, |link| link.id);
        let query = format!(
            "select id, node_id, hash::text, digest, payload::text, \
             (extract(epoch from written_at) * 1000000)::bigint \
             from pghc.chain where id > {after} order by id limit {PAGE_LINKS}"
        );
        let rows = sql.query(&query).await.with_context(|| format!("read {}", NAMES[zone]))?;
        for row in &rows {
            chain.links.push(link(row).with_context(|| format!("a link of {}", NAMES[zone]))?);
        }
        if (rows.len() as u64) < PAGE_LINKS {
            return Ok(());
        }
    }
}

fn link(row: &tokio_postgres::Row) -> anyhow::Result<Link> {
    let payload: Option<&str> = row.try_get(4)?;
    let text = |error: &dyn std::fmt::Display| anyhow::anyhow!("{error}");
    Ok(Link {
        id: u64::try_from(row.try_get::<_, i64>(0)?)?,
        node: row.try_get::<_, &str>(1)?.parse().map_err(|error| text(&error))?,
        hash: row.try_get::<_, &str>(2)?.parse().map_err(|error| text(&error))?,
        digest: Digest(row.try_get::<_, &[u8]>(3)?.try_into()?),
        payload: payload.map(|payload| payload_digest(payload.as_bytes())),
        written_at: Micros(row.try_get(5)?),
    })
}

/// Polls every zone's database, each poll one snapshot: at every moment its links must be a prefix
/// of the chain. The poll counts the newest links only; the checker counts all.
pub async fn poll(cluster: Arc<Cluster>, book: Arc<Book>) {
    let mut counted = [0_u64; ZONES];
    loop {
        for (zone, base) in counted.iter_mut().enumerate() {
            let started = book.now();
            // A stopped database has no snapshot.
            if let Ok((max_id, above, digest)) = look(&cluster, zone, *base).await {
                // A copy that took the database's place may be behind what was counted.
                if max_id < *base {
                    *base = 0;
                    continue;
                }
                let (zone, ended, count) =
                    (u16::try_from(zone).unwrap_or(0), book.now(), *base + above);
                let snapshot =
                    Snapshot { zone, replica: false, started, ended, max_id, count, digest };
                book.with_history(|history| history.snapshots.push(snapshot));
                *base = max_id.saturating_sub(5_000).min(count);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Largest id, number of links above `base`, and the largest id's digest.
async fn look(
    cluster: &Cluster,
    zone: usize,
    base: u64,
) -> anyhow::Result<(u64, u64, Option<pghc_api::chain::Digest>)> {
    let sql = cluster.sql(zone).await?;
    let query = format!(
        "select coalesce(max(id), 0), count(*) filter (where id > {base}), \
         (array_agg(digest order by id desc))[1] from pghc.chain where id >= {base}"
    );
    let rows = sql.query(&query).await?;
    let row = rows.first().context("a row")?;
    let digest = row.try_get::<_, Option<&[u8]>>(2)?;
    let digest = digest.and_then(|bytes| bytes.try_into().ok()).map(pghc_api::chain::Digest);
    let number = |column: usize| anyhow::Ok(u64::try_from(row.try_get::<_, i64>(column)?)?);
    Ok((number(0)?, number(1)?, digest))
}
