//! What pghc does: single writes by both interfaces, bulk writes, and one client alone.
//!
//! Requests are prepared bytes over kept connections, because the client shares the machine with
//! three zones.

use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::closed::{Outcome, Tally, Window, together, work};
use crate::lab::client::{Connection, post, post_empty};
use crate::lab::target::{Endpoint, Target};

/// Connections of the single-write phases, over all zones.
const CONNECTIONS: usize = 64;

/// Lines of one bulk request.
const BULK_LINES: usize = 1_000;

/// Bulk requests under way in each zone.
const BULK_STREAMS_PER_ZONE: usize = 4;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Single writes by the original interface.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn original(
    target: &Target,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Tally> {
    let request = |node: &Endpoint| post_empty(&node.host, "/chain");
    singles(target, CONNECTIONS, request, Window::after(warm_up, length)).await
}

/// Single writes with a payload by version 1, over `connections`.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn version_1(
    target: &Target,
    connections: Option<usize>,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Tally> {
    let body = format!(r#"{{"payload":{}}}"#, super::payload(0));
    let request =
        |node: &Endpoint| post(&node.host, "/v1/chain", "application/json", None, body.as_bytes());
    let window = Window::after(warm_up, length);
    singles(target, connections.unwrap_or(CONNECTIONS), request, window).await
}

/// Bulk writes as NDJSON, several streams to each zone.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent.
pub(super) async fn bulk(
    target: &Target,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Tally> {
    let lines: String = (0..BULK_LINES)
        .map(|place| format!("{{\"payload\":{}}}\n", super::payload(place)))
        .collect();
    let window = Window::after(warm_up, length);
    let workers = nodes(target, BULK_STREAMS_PER_ZONE * target.zones.len()).map(async |node| {
        let request = post(&node.host, "/v1/chain", "application/x-ndjson", None, lines.as_bytes());
        let mut connection = open(node).await?;
        work(window, async || {
            let answer = tokio::time::timeout(ANSWER_MAX, connection.exchange(&request));
            let answer = answer.await.context("a bulk request got no answer")??;
            if answer.status >= 300 {
                return Ok(Outcome::Refused(0, told(answer.status, answer.body)));
            }
            Ok(count_lines(answer.body))
        })
        .await
    });
    together(window, workers).await
}

async fn singles(
    target: &Target,
    connections: usize,
    request: impl Fn(&Endpoint) -> Vec<u8>,
    window: Window,
) -> anyhow::Result<Tally> {
    let workers = nodes(target, connections).map(async |node| {
        let request = request(node);
        let mut connection = open(node).await?;
        work(window, async || {
            let answer = tokio::time::timeout(ANSWER_MAX, connection.exchange(&request));
            let answer = answer.await.context("a write got no answer")??;
            match answer.status {
                200 | 201 => Ok(Outcome::Done(1)),
                status => Ok(Outcome::Refused(0, told(status, answer.body))),
            }
        })
        .await
    });
    together(window, workers).await
}

/// `count` nodes in turn: zone by zone, and within a zone node by node.
fn nodes(target: &Target, count: usize) -> impl Iterator<Item = &Endpoint> {
    let zones = &target.zones;
    (0..count).map(move |place| {
        let zone = &zones[place % zones.len()];
        &zone.nodes[place / zones.len() % zone.nodes.len()]
    })
}

async fn open(node: &Endpoint) -> anyhow::Result<Connection> {
    let opened = Connection::open(node.address).await;
    opened.with_context(|| format!("cannot reach the API node at http://{}", node.host))
}

/// Counts the written lines of a bulk answer; the first refused one tells why.
fn count_lines(body: &[u8]) -> Outcome {
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
        None if lines == BULK_LINES => Outcome::Done(written),
        None => Outcome::Refused(written, format!("{lines} lines answer {BULK_LINES}")),
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
    use super::{BULK_LINES, Outcome, count_lines};

    #[test]
    fn a_bulk_answer_counts_only_the_lines_that_were_written() {
        let good = "{\"status\":201,\"id\":1}\n".repeat(BULK_LINES);
        assert!(matches!(count_lines(good.as_bytes()), Outcome::Done(1_000)));
        let bad = good.replacen("201", "429", 3);
        assert!(matches!(count_lines(bad.as_bytes()), Outcome::Refused(997, _)));
        let short = &good[..good.len() / 2];
        assert!(matches!(count_lines(short.as_bytes()), Outcome::Refused(500, _)));
    }
}
