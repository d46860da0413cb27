//! Load on pghc: single writes by both interfaces, bulk writes, and one client alone.
//!
//! Requests are prepared bytes over kept connections, because the client shares the machine with
//! all zones.

use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::closed::{Outcome, Tally, Window, together, work};
use super::measure::{payload, single_request};
use super::open;
use crate::client::{Connection, post, post_empty};
use crate::target::{Endpoint, Target};

/// Connections of the single-write benchmark cases, over all zones.
pub(super) const CONNECTIONS: usize = 64;

/// How bulk writes come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bulk {
    /// Requests under way in each zone.
    pub(super) streams_per_zone: usize,
    /// Most lines of one request.
    pub(super) lines_max: usize,
}

/// As few streams with as long requests as keep all busy.
const BULK: Bulk = Bulk { streams_per_zone: 4, lines_max: 1_000 };

/// Most bytes of one bulk request; large payloads make it shorter.
const BULK_BYTES_MAX: usize = 1 << 20;

/// Sends a second of one client alone: far below what it could do, so that it never has to queue
/// behind itself on a sound machine.
pub(super) const ALONE_RATE: f64 = 200.0;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Single writes by the original interface, which has no payload.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn original(target: &Target, window: Window) -> anyhow::Result<Tally> {
    let request = |node: &Endpoint| post_empty(&node.host, "/chain");
    closed(target, request, window).await
}

/// Single writes by version 1.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn single(
    target: &Target,
    payload_bytes: usize,
    window: Window,
) -> anyhow::Result<Tally> {
    closed(target, |node| single_request(node, payload_bytes), window).await
}

/// Runs one client that writes at planned times; see [`open::alone`].
///
/// # Errors
/// When the node cannot be reached, or the client falls far behind its plan.
pub(super) async fn alone(
    target: &Target,
    payload_bytes: usize,
    window: Window,
) -> anyhow::Result<Tally> {
    let node = &target.zones[0].nodes[0];
    let request = single_request(node, payload_bytes);
    let mut connection = connect(node).await?;
    open::alone(ALONE_RATE, window, async || exchange(&mut connection, &request).await).await
}

/// Bulk writes as NDJSON, several streams to each zone.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn bulk(
    target: &Target,
    payload_bytes: usize,
    window: Window,
) -> anyhow::Result<Tally> {
    bulk_of(target, BULK, payload_bytes, window).await
}

/// Bulk writes that come as `shape` says.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn bulk_of(
    target: &Target,
    shape: Bulk,
    payload_bytes: usize,
    window: Window,
) -> anyhow::Result<Tally> {
    let count = (BULK_BYTES_MAX / payload_bytes.max(1)).clamp(1, shape.lines_max);
    let line = |place| format!("{{\"payload\":{}}}\n", payload(place, payload_bytes));
    let lines: String = (0..count).map(line).collect();
    let workers = nodes(target, shape.streams_per_zone * target.zones.len()).map(async |node| {
        let request = post(&node.host, "/v1/chain", "application/x-ndjson", None, lines.as_bytes());
        let mut connection = connect(node).await?;
        work(window, async || {
            let answer = tokio::time::timeout(ANSWER_MAX, connection.exchange(&request));
            let answer = answer.await.context("a bulk request got no answer")??;
            if answer.status >= 300 {
                return Ok(Outcome::Refused(0, told(answer.status, answer.body)));
            }
            Ok(count_lines(answer.body, count))
        })
        .await
    });
    together(window, workers).await
}

async fn closed(
    target: &Target,
    request: impl Fn(&Endpoint) -> Vec<u8>,
    window: Window,
) -> anyhow::Result<Tally> {
    let workers = nodes(target, CONNECTIONS).map(async |node| {
        let request = request(node);
        let mut connection = connect(node).await?;
        work(window, async || exchange(&mut connection, &request).await).await
    });
    together(window, workers).await
}

async fn exchange(connection: &mut Connection, request: &[u8]) -> anyhow::Result<Outcome> {
    let answer = tokio::time::timeout(ANSWER_MAX, connection.exchange(request));
    let answer = answer.await.context("a write got no answer")??;
    match answer.status {
        200 | 201 => Ok(Outcome::Done(1)),
        status => Ok(Outcome::Refused(0, told(status, answer.body))),
    }
}

/// `count` nodes in turn: zone by zone, and within a zone node by node.
fn nodes(target: &Target, count: usize) -> impl Iterator<Item = &Endpoint> {
    let zones = &target.zones;
    (0..count).map(move |place| {
        let zone = &zones[place % zones.len()];
        &zone.nodes[place / zones.len() % zone.nodes.len()]
    })
}

async fn connect(node: &Endpoint) -> anyhow::Result<Connection> {
    let opened = Connection::open(node.address).await;
    opened.with_context(|| format!("cannot reach the API node at http://{}", node.host))
}

/// Counts the written lines of a bulk answer to `expected` lines; the first refused one tells why.
fn count_lines(body: &[u8], expected: usize) -> Outcome {
    #[derive(Deserialize)]
    struct Line {
        status: u16,
    }
    let (mut written, mut lines, mut refused) = (0, 0, None);
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        lines += 1;
        match serde_json::from_slice(line) {
            Ok(Line { status: 200 | 201 }) => written += 1,
            _ => {
                refused.get_or_insert_with(|| told(0, line));
            }
        }
    }
    match refused {
        None if lines == expected => Outcome::Done(written),
        None => Outcome::Refused(written, format!("{lines} lines answer {expected}")),
        Some(reason) => Outcome::Refused(written, reason),
    }
}

/// The start of a refusal, as a report shows it.
fn told(status: u16, body: &[u8]) -> String {
    let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
    if status == 0 { body } else { format!("{status} {body}") }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, count_lines};

    #[test]
    fn a_bulk_answer_counts_only_the_lines_that_were_written() {
        let good = "{\"status\":201,\"id\":1}\n".repeat(1_000);
        assert!(matches!(count_lines(good.as_bytes(), 1_000), Outcome::Done(1_000)));
        let bad = good.replacen("201", "429", 3);
        assert!(matches!(count_lines(bad.as_bytes(), 1_000), Outcome::Refused(997, _)));
        let short = &good[..good.len() / 2];
        assert!(matches!(count_lines(short.as_bytes(), 1_000), Outcome::Refused(500, _)));
    }
}
