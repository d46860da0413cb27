//! Bulk writes.

use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc;
use serde_json::{Value, json};

use crate::http::tests::{Got, PATIENCE, Server, until};
use crate::http::{Cors, Limits};
use crate::zone::SubmitError;

impl Server {
    fn bulk_request(&self, query: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        let url = self.url(&format!("/v1/chain{query}"));
        self.client.post(url).header("content-type", "application/x-ndjson").body(body)
    }

    async fn bulk(&self, query: &str, body: impl Into<reqwest::Body>) -> Got {
        self.send(self.bulk_request(query, body)).await
    }
}

fn field(lines: &[Value], name: &str) -> Value {
    lines.iter().map(|line| line[name].clone()).collect()
}

#[tokio::test]
async fn each_line_is_answered_in_its_place() {
    let server = Server::start().await;
    let body: String = (0..2500).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    let got = server.bulk("", body).await;
    assert_eq!((got.status, got.header("content-type")), (200, "application/x-ndjson"));
    let lines = got.lines();
    assert_eq!(field(&lines, "id"), json!((1..=2500).collect::<Vec<_>>()));
    assert!(lines.iter().all(|line| line["status"] == 201 && line["token"].is_string()));
    let payloads: Vec<_> = server.double.payloads().into_iter().flatten().collect();
    assert_eq!(payloads, (0..2500).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bad_line_does_not_stop_the_others() {
    let limits = Limits { body_bytes: 200, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(200));
    let body = [
        b"{}\r\n{\"payload\":\n\n{\"payload\":{\"a\":1,\"a\":1}}\n".as_slice(),
        long.as_bytes(),
        b"\n{\"payload\":\"\xff\"}\n{\"payload\":\"\\u0000\"}\n{\"x\":1}\n{\"payload\":9}",
    ];
    let lines = server.bulk("", body.concat()).await.lines();
    assert_eq!(field(&lines, "status"), json!([201, 400, 400, 400, 413, 400, 422, 400, 201]));
    let codes = json!([
        null,
        "bad_json",
        "bad_json",
        "duplicate_key",
        "payload_too_large",
        "bad_json",
        "unstorable_payload",
        "unknown_field",
        null
    ]);
    assert_eq!(field(&lines, "code"), codes);
    assert_eq!(server.double.payloads(), [None, Some("9".to_owned())]);
}

#[tokio::test]
async fn oversized_line_is_skipped_without_being_buffered() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let body = format!("{{}}\n{}\n{{}}\n{}", "x".repeat(3 << 20), "y".repeat(300));
    let lines = server.bulk("", body).await.lines();
    assert_eq!(field(&lines, "status"), json!([201, 413, 201, 413]));
}

#[tokio::test]
async fn each_line_has_its_own_key() {
    let server = Server::start().await;
    let keyed = |body: &'static str| server.bulk_request("", body).header("Idempotency-Key", "k");
    let first = server.send(keyed("{\"payload\":1}\n{bad\n{\"payload\":3}\n")).await.lines();
    assert_eq!(field(&first, "status"), json!([201, 400, 201]));
    let again = "{\"payload\":1}\n{\"payload\":2}\n{\"payload\":4}\n{\"payload\":5}\n";
    let again = server.send(keyed(again)).await.lines();
    assert_eq!(field(&again, "status"), json!([200, 201, 422, 201]));
    assert_eq!(field(&again, "id"), json!([1, 3, 2, 4]));
    assert_eq!(first[0]["hash"], again[0]["hash"]);
}

#[tokio::test]
async fn answers_stream_out_while_the_request_is_still_being_sent() {
    let server = Server::start().await;
    let (mut lines, body) = mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    let request = server.bulk_request("", reqwest::Body::wrap_stream(body));
    let exchange = async {
        lines.try_send(Ok("{}\n{\"pay")).expect("room");
        let response = request.send().await.expect("headers before the end of the request");
        let mut answers = response.bytes_stream();
        let first = answers.next().await.expect("an answer").expect("no error");
        assert!(first.starts_with(b"{\"status\":201,\"id\":1,"));
        lines.try_send(Ok("load\":2}\n")).expect("room");
        let second = answers.next().await.expect("an answer").expect("no error");
        assert!(second.starts_with(b"{\"status\":201,\"id\":2,"));
        drop(lines);
        assert!(answers.next().await.is_none());
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("no one waits for the other");
}

#[tokio::test]
async fn a_full_queue_slows_a_stream_down_instead_of_failing_it() {
    let server = Server::start().await;
    server.double.behave(|b| b.submit = Some((3, SubmitError::Overloaded)));
    let lines = server.bulk("", "{}\n{}\n").await.lines();
    assert_eq!(field(&lines, "status"), json!([201, 201]));
    server.double.behave(|b| b.submit = Some((usize::MAX, SubmitError::Overloaded)));
    let lines = server.bulk("?timeout=20ms", "{}\nx\n{}\n").await.lines();
    assert_eq!(field(&lines, "code"), json!(["overloaded", "bad_json", "overloaded"]));
    assert_eq!(field(&lines, "status"), json!([429, 400, 429]));
}

#[tokio::test]
async fn each_line_has_its_result_when_the_zone_is_behind() {
    let server = Server::start().await;
    server.post("", "{}").await;
    server.double.behave(|b| b.applies_nothing = true);
    let lines = server.bulk("?timeout=20ms", "{}\n{}\n").await.lines();
    assert_eq!(field(&lines, "code"), json!(["committed_not_applied", "committed_not_applied"]));
    assert_eq!(field(&lines, "id"), json!([2, 3]));
    let lines = server.bulk("?wait=ordered", "{}\n").await.lines();
    assert_eq!(field(&lines, "status"), json!([201]));
    server.double.behave(|b| b.submit = Some((1, SubmitError::Unknown)));
    let lines = server.bulk("", "{}\n{}\n").await.lines();
    assert_eq!(field(&lines, "code"), json!(["outcome_unknown", "outcome_unknown"]));
}

#[tokio::test]
async fn oversized_bulk_body_is_refused_or_cut_at_the_limit() {
    let limits = Limits { bulk_bytes: 10, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    server.bulk("", "{}\n{}\n{}\n{}\n").await.is_problem(413, "payload_too_large");
    assert_eq!(server.double.ordered(), 0);
    let pieces = futures::stream::iter(["{}\n", "{}\n", "{}\n", "{}\n"]);
    let pieces = pieces.map(Ok::<_, std::io::Error>);
    let lines = server.bulk("", reqwest::Body::wrap_stream(pieces)).await.lines();
    assert_eq!(field(&lines, "status").as_array().and_then(|s| s.last()), Some(&json!(413)));
    assert_eq!(server.double.ordered(), lines.len() as u64 - 1);
}

#[tokio::test]
async fn silent_stream_ends_with_408_after_its_answers() {
    let limits = Limits { body_read: Duration::from_secs(1), ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let (mut sender, body) = mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    sender.try_send(Ok("{}\n{\"half")).expect("room");
    let lines = server.bulk("", reqwest::Body::wrap_stream(body)).await.lines();
    assert_eq!(field(&lines, "status"), json!([201, 408]));
}

#[tokio::test]
async fn shutdown_ends_a_stream_with_a_last_line() {
    let server = Server::start().await;
    let (mut sender, body) = mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    sender.try_send(Ok("{}\n")).expect("room");
    let stop = async {
        until("the line is written", || server.double.ordered() == 1).await;
        server.shutdown.cancel();
    };
    let bulk = server.bulk("", reqwest::Body::wrap_stream(body));
    let (got, ()) = tokio::join!(tokio::time::timeout(PATIENCE, bulk), stop);
    let lines = got.expect("the stream ends").lines();
    assert_eq!(field(&lines, "status"), json!([201, 503]));
    assert_eq!(lines[1]["code"], "draining");
}

#[tokio::test]
async fn an_empty_bulk_write_is_answered_by_no_line() {
    let server = Server::start().await;
    let got = server.bulk("", "").await;
    assert_eq!((got.status, got.text.as_str()), (200, ""));
}
