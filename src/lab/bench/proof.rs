//! How fast `chain-verify` reads and recomputes a chain, against PostgreSQL merely copying the same
//! rows out.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::future::try_join_all;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio_postgres::Client;

use super::closed::Window;
use super::load;
use super::measure::Measure;
use super::memory::peak_rss_mib;
use super::sample::Sample;
use super::zones::{Zones, per_second};
use crate::chain_check::sibling;
use crate::target::Target;

/// Links verified in one turn; of a shorter chain all of it.
const LINKS: u64 = 200_000;
/// Links a chain must have to measure anything; what is missing is written first.
const LINKS_MIN: u64 = 5_000;
/// Longest time a verification may take.
const VERIFY_MAX: Duration = Duration::from_secs(600);
/// Time between two polls of the verifier's memory.
const POLL: Duration = Duration::from_millis(20);

/// Verifies the newest links of all zones, then copies them out. The rate is per zone; figures
/// `copy_per_second`, `links` and `verifier_mib`, the most memory the verifier took.
///
/// # Errors
/// When `chain-verify` does not prove the chain: then there is no point in its speed.
pub(super) async fn verify(measure: &Measure<'_>, zones: &Zones) -> anyhow::Result<Sample> {
    let mut newest = zones.settled().await?;
    while newest < LINKS_MIN {
        let window = Window::after(Duration::ZERO, Duration::from_millis(500));
        load::bulk(measure.target, measure.payload_bytes, window).await?;
        newest = zones.settled().await?;
    }
    verify_newest(measure.target, zones, newest, LINKS).await
}

/// As [`verify`], for the newest `links` links of a chain that ends at `newest`.
///
/// # Errors
/// As [`verify`].
pub(super) async fn verify_newest(
    target: &Target,
    zones: &Zones,
    newest: u64,
    links: u64,
) -> anyhow::Result<Sample> {
    let links = links.min(newest);
    // The first reader after a write sets the hint bits and fetches the rows from disk: work that
    // must not be charged to either side.
    copied(zones, newest - links, newest).await?;
    let (rate, mib) = verified(target, links).await?;
    let copied = copied(zones, newest - links, newest).await?;
    let mut sample = Sample::new(rate);
    sample.figure("copy_per_second", copied);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    sample.figure("links", links as f64);
    if let Some(mib) = mib {
        sample.figure("verifier_mib", mib);
    }
    Ok(sample)
}

/// Copies links above `after` up to `to` out of all zones at once; links a second of the slowest.
async fn copied(zones: &Zones, after: u64, to: u64) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let copies = zones.clients().map(|client| copy(client, after, to));
    let rows: u64 = try_join_all(copies).await?.into_iter().min().unwrap_or_default();
    anyhow::ensure!(rows == to - after, "a zone copied out {rows} rows of {}", to - after);
    Ok(per_second(rows, begun.elapsed()))
}

/// The fields that are read of the verifier's JSON report.
#[derive(Debug, Deserialize)]
struct Report {
    summary: String,
    zones: Vec<Zone>,
}

#[derive(Debug, Deserialize)]
struct Zone {
    links: u64,
    seconds: f64,
}

/// Links a second of the slowest zone, and the most memory taken in MiB.
async fn verified(target: &Target, links: u64) -> anyhow::Result<(f64, Option<f64>)> {
    let mut command = Command::new(sibling("chain-verify")?);
    for zone in &target.zones {
        command.arg("--zone").arg(format!("{}={}", zone.name, zone.dsn));
    }
    command.args(["--format", "json", "--last", &links.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot run chain-verify")?;
    let pid = child.id();
    let mut output = child.stdout.take().expect("it is piped");
    let (mut text, mut most) = (Vec::new(), None);
    let reading = async {
        output.read_to_end(&mut text).await?;
        child.wait().await
    };
    let watching = async {
        loop {
            // The kernel keeps the peak, so a rare poll misses nothing.
            most = pid.and_then(peak_rss_mib).or(most);
            tokio::time::sleep(POLL).await;
        }
    };
    let status = tokio::select! {
        status = tokio::time::timeout(VERIFY_MAX, reading) => status,
        () = watching => unreachable!("it watches until it is dropped"),
    };
    let status = status.with_context(|| format!("chain-verify took over {VERIFY_MAX:?}"))??;
    let report: Report = serde_json::from_slice(&text).context("chain-verify gave no report")?;
    anyhow::ensure!(status.success(), "chain-verify did not prove it: {}", report.summary);
    let rates = report.zones.iter().map(|zone| {
        per_second(zone.links, Duration::try_from_secs_f64(zone.seconds).unwrap_or_default())
    });
    Ok((rates.fold(f64::INFINITY, f64::min), most))
}

/// Copies links above `after` up to `to` out of a zone and throws them away; returns how many.
async fn copy(client: &Client, after: u64, to: u64) -> anyhow::Result<u64> {
    let text = format!(
        "copy (select id, node_id, hash, digest, written_at, payload from pghc.chain \
         where id > {after} and id <= {to} order by id) to stdout (format binary)"
    );
    let mut stream = std::pin::pin!(client.copy_out(&text).await?);
    // The end travels as a piece of its own, the header before the first row.
    let (mut pieces, mut bytes) = (0_u64, 0);
    while let Some(piece) = stream.next().await {
        bytes += piece?.len();
        pieces += 1;
    }
    anyhow::ensure!(bytes > 0, "the copy was empty");
    Ok(pieces.saturating_sub(1).min(to - after))
}
