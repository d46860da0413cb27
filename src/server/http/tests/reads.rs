//! Reads and how fresh they are.

use pghc_api::chain::Digest;
use pghc_api::id::ClusterId;
use pghc_api::token::Token;
use serde_json::json;

use crate::http::tests::{PATIENCE, Server};
use crate::zone::ReadError;

async fn with_links(count: usize) -> Server {
    let server = Server::start().await;
    for number in 1..=count {
        server.post("", format!("{{\"payload\":{number}.0}}")).await;
    }
    server
}

#[tokio::test]
async fn a_link_is_read_with_its_payload_as_it_was_sent() {
    let server = with_links(2).await;
    let got = server.get("/v1/chain/2").await;
    assert_eq!((got.status, got.header("pghc-frontier")), (200, "2"));
    assert!(got.text.ends_with(",\"payload\":2.0}"), "{}", got.text);
    assert_eq!(got.json()["id"], 2);
    server.post("", "{}").await;
    assert_eq!(server.get("/v1/chain/3").await.json().get("payload"), Some(&json!(null)));
    let missing = server.get("/v1/chain/4").await;
    assert_eq!(missing.is_problem(404, "not_found")["frontier"], 3);
    assert_eq!(missing.header("pghc-frontier"), "3");
}

#[tokio::test]
async fn pages_follow_each_other_to_the_frontier() {
    let server = with_links(5).await;
    let mut after = 0;
    let mut ids = Vec::new();
    loop {
        let page = server.get(&format!("/v1/chain?after={after}&limit=2")).await;
        assert_eq!(page.header("pghc-frontier"), "5");
        let page = page.json();
        assert_eq!(page["frontier"], 5);
        ids.extend(page["links"].as_array().expect("links").iter().map(|link| link["id"].clone()));
        match page["next_after"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(json!(ids), json!([1, 2, 3, 4, 5]));
    let empty = server.get("/v1/chain?after=9223372036854775807").await.json();
    assert_eq!(empty, json!({"links": [], "frontier": 5}));
}

#[tokio::test]
async fn a_page_that_large_links_ended_early_names_the_next_one() {
    let server = with_links(5).await;
    server.double.behave(|b| b.page_links = 2);
    for (after, next) in [(0, json!(2)), (2, json!(4)), (4, json!(null))] {
        let page = server.get(&format!("/v1/chain?after={after}&limit=100")).await.json();
        assert_eq!(page["next_after"], next, "after {after}");
    }
}

#[tokio::test]
async fn every_answer_says_at_which_frontier_it_was_given() {
    let server = with_links(3).await;
    for path in
        ["/ping", "/healthz", "/readyz/write", "/metrics", "/openapi.json", "/v1/status", "/no"]
    {
        assert_eq!(server.get(path).await.header("pghc-frontier"), "3", "{path}");
    }
    let refused = server.post("", "{").await;
    assert_eq!((refused.status, refused.header("pghc-frontier")), (400, "3"));
    let method = server.send(server.client.delete(server.url("/chain"))).await;
    assert_eq!((method.status, method.header("pghc-frontier")), (405, "3"));
}

#[tokio::test]
async fn the_head_is_the_newest_link_or_null() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/chain/head").await.json(), json!({"head": null, "frontier": 0}));
    server.post("", "{}").await;
    let head = server.get("/v1/chain/head").await.json();
    assert_eq!((&head["head"]["id"], &head["frontier"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn every_read_waits_for_the_id_or_token_it_names() {
    let server = with_links(1).await;
    let token = server.get("/v1/chain/1").await.json()["token"].clone();
    let token = token.as_str().expect("a token");
    for path in ["/v1/chain/1", "/v1/chain", "/v1/chain/head", "/chain/recent"] {
        assert_eq!(server.get(&format!("{path}?at_least=1")).await.status, 200);
        assert_eq!(server.get(&format!("{path}?at_least={token}")).await.status, 200);
        let late = server.get(&format!("{path}?at_least=9&timeout=10ms")).await;
        assert_eq!(late.is_problem(504, "not_applied_yet")["frontier"], 1);
        assert_eq!(late.header("pghc-frontier"), "1");
    }
    server.double.behave(|b| b.applies_nothing = true);
    server.post("?wait=ordered", "{}").await;
    let read = server.get("/v1/chain/2?at_least=2&timeout=20s");
    let (read, ()) = tokio::join!(read, async { server.double.catch_up() });
    assert_eq!(read.status, 200);
}

#[tokio::test]
async fn token_is_checked_against_cluster_and_chain() {
    let server = with_links(1).await;
    let ours: ClusterId = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
    let other: ClusterId = "0290a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
    let token =
        |cluster, id: u64| Token::new(cluster, id.try_into().expect("an id"), Digest([7; 32]));
    let read = async |token: Token| {
        server.get(&format!("/v1/chain/head?timeout=10ms&at_least={token}")).await
    };
    read(token(&other, 1)).await.is_problem(400, "wrong_cluster");
    assert_eq!(read(token(&ours, 1)).await.is_problem(409, "chain_fork")["id"], 1);
    assert_eq!(read(token(&ours, 2)).await.is_problem(504, "not_applied_yet")["frontier"], 1);
}

#[tokio::test]
async fn a_linearizable_read_shows_all_that_was_committed_before_it() {
    let server = Server::start().await;
    server.double.behave(|b| b.applies_nothing = true);
    server.post("?wait=ordered", "{}").await;
    for path in ["/v1/chain/1", "/v1/chain", "/v1/chain/head", "/chain/recent"] {
        assert_ne!(server.get(path).await.status, 504);
        let late = server.get(&format!("{path}?linearizable=true&timeout=10ms")).await;
        assert_eq!(late.is_problem(504, "not_applied_yet")["frontier"], 0);
    }
    server.double.catch_up();
    let read = server.get("/v1/chain/1?linearizable=true").await;
    assert_eq!(read.status, 200);
    server.double.behave(|b| b.read_index = Some(ReadError::NoLeader));
    server.get("/v1/chain/1?linearizable=true").await.is_problem(503, "no_leader");
    server.double.behave(|b| b.read_index = Some(ReadError::TimeLimit));
    server.get("/v1/chain/1?linearizable=true&timeout=1ms").await.is_problem(503, "time_limit");
    assert_eq!(server.get("/v1/chain/1?linearizable=false").await.status, 200);
}

#[tokio::test]
async fn failed_read_does_not_repeat_the_database_error() {
    let server = with_links(1).await;
    server.double.behave(|b| b.read = Some(ReadError::Database("select * from x".to_owned())));
    let got = server.get("/v1/chain/1").await;
    got.is_problem(503, "database_unavailable");
    assert!(!got.text.contains("select"), "{}", got.text);
    server.double.behave(|b| b.read = Some(ReadError::Halted("digest differs at 7".to_owned())));
    let halted = server.get("/v1/chain").await.is_problem(503, "zone_halted");
    assert_eq!(halted["detail"], "digest differs at 7");
}

const READS: [&str; 4] = ["/v1/chain/1", "/v1/chain", "/v1/chain/head", "/chain/recent"];

#[tokio::test]
async fn node_without_leader_still_reads() {
    let server = with_links(1).await;
    assert_eq!(server.get("/readyz/write").await.text, "ready");
    server.double.behave(|b| b.not_ready = Some("no coordinator leads".to_owned()));
    let problem = server.get("/readyz/write").await.is_problem(503, "not_ready");
    assert_eq!(problem["detail"], "no coordinator leads");
    let open = ["/healthz", "/readyz", "/ping", "/v1/status", "/metrics", "/openapi.json"];
    for path in READS.iter().chain(&open) {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let waits = server.post("", "{}");
    assert_eq!(tokio::time::timeout(PATIENCE, waits).await.expect("it does not wait").status, 201);
}

#[tokio::test]
async fn a_node_that_cannot_read_is_ready_for_no_reads() {
    let server = with_links(1).await;
    server.double.behave(|b| b.not_reading = Some("filling from zone us".to_owned()));
    let problem = server.get("/readyz").await.is_problem(503, "not_ready");
    assert_eq!(problem["detail"], "filling from zone us");
}

#[tokio::test]
async fn only_a_plain_link_may_be_kept() {
    let server = with_links(3).await;
    let kept = server.get("/v1/chain/1").await;
    assert_eq!(kept.header("cache-control"), "private, max-age=31536000, immutable");
    for path in [
        "/v1/chain/1?at_least=2",
        "/v1/chain/1?linearizable=true",
        "/v1/chain/4",
        "/v1/chain/x",
        "/v1/chain",
        "/v1/chain/head",
        "/chain/recent",
        "/cluster/config",
        "/v1/status",
        "/readyz",
        "/readyz/write",
        "/metrics",
        "/ping",
        "/none",
    ] {
        assert_eq!(server.get(path).await.header("cache-control"), "no-store", "{path}");
    }
    assert_eq!(server.post("", "{}").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn halted_or_unreached_zone_is_not_read() {
    let server = with_links(1).await;
    for path in READS {
        let halted = ReadError::Halted("digest differs at 7".to_owned());
        server.double.behave(|b| b.may_not_read = Some(halted));
        let problem = server.get(path).await.is_problem(503, "zone_halted");
        assert_eq!(problem["detail"], "digest differs at 7");
        let unknown = ReadError::Database("not reached yet".to_owned());
        server.double.behave(|b| b.may_not_read = Some(unknown));
        server.get(path).await.is_problem(503, "database_unavailable");
    }
}

#[tokio::test]
async fn operators_see_status_and_metrics() {
    let server = with_links(2).await;
    let status = server.get("/v1/status").await;
    assert_eq!((&status.json()["frontier"], status.header("pghc-frontier")), (&json!(2), "2"));
    let metrics = server.get("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    for line in [
        "pghc_zone_frontier_id 2",
        "pghc_http_requests_total{route=\"/v1/chain\",status=\"2xx\"} 2",
        "pghc_http_connections_open 1",
        "pghc_http_writes_submitted_total 2",
    ] {
        assert!(metrics.text.lines().any(|found| found == line), "{line}\n{}", metrics.text);
    }
}
