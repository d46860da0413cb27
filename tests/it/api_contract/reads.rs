//! Reads: how fresh they are, what tokens prove, and pages.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Got, PROMPT, id_of, token_of};
use crate::harness::Site;

pub(super) async fn a_reader_sees_its_write_in_every_other_zone(site: &Site) {
    for writer in 0..3 {
        for reader in 0..3 {
            let link = site.post(writer, "", r#"{"payload":"mine"}"#).await.is(201);
            let (id, token) = (id_of(&link), token_of(&link));
            for at_least in [token, id.to_string()] {
                let read = site.get(reader, &format!("/v1/chain/{id}?at_least={at_least}")).await;
                assert_eq!(read.is(200)["hash"], link["hash"], "{writer} to {reader}");
                assert!(read.frontier() >= id);
                let head = site.get(reader, &format!("/v1/chain/head?at_least={at_least}")).await;
                assert!(head.is(200)["frontier"].as_u64() >= Some(id));
            }
            let id = id_of(&site.post(writer, "?wait=ordered", "{}").await.is(201));
            let read = site.get(reader, &format!("/v1/chain/{id}?linearizable=true")).await;
            assert!(read.status == 200 && read.frontier() >= id, "{writer} to {reader}: {read:?}");
            let id = id_of(&site.post(writer, "?wait=ordered", "{}").await.is(201));
            let recent = site.get(reader, "/chain/recent?linearizable=true").await.is(200);
            assert!(recent[0]["zk_id"].as_u64() >= Some(id), "{writer} to {reader}: {recent}");
        }
    }
    // A write that follows a read is ordered after all links that were read.
    let read = site.get(2, "/v1/chain/head?linearizable=true").await;
    let later = id_of(&site.post(0, "", "{}").await.is(201));
    assert!(later > read.frontier());
}

pub(super) async fn a_token_of_another_chain_is_refused(site: &Site) {
    let link = site.post(0, "?wait=everywhere", "{}").await.is(201);
    let (id, token) = (id_of(&link), token_of(&link));
    let parts: Vec<&str> = token.split('-').collect();
    let flip = |text: &str| -> String {
        let flipped = |digit: char| if digit == '0' { '1' } else { '0' };
        text.chars().map(flipped).collect()
    };
    let foreign = format!("p1-{}-{id}-{}", flip(parts[1]), parts[3]);
    let forked = format!("p1-{}-{id}-{}", parts[1], flip(parts[3]));
    let future = format!("p1-{}-{}-{}", parts[1], id + 1_000_000, parts[3]);
    let upper = token.to_uppercase();
    for zone in 0..3 {
        for path in ["/v1/chain/1", "/v1/chain", "/v1/chain/head", "/chain/recent"] {
            let ask =
                async |at_least: &str| site.get(zone, &format!("{path}?at_least={at_least}")).await;
            ask(&foreign).await.is_problem(400, "wrong_cluster");
            let fork = ask(&forked).await.is_problem(409, "chain_fork");
            assert_eq!(fork["id"], id, "the operator is told which link");
            for far in [&future, &(id + 1_000_000).to_string()] {
                let start = Instant::now();
                let late = ask(&format!("{far}&timeout=300ms")).await;
                let problem = late.is_problem(504, "not_applied_yet");
                assert!(late.frontier() >= id && problem["frontier"] == late.frontier());
                let took = start.elapsed();
                let in_time = Duration::from_millis(300)..PROMPT;
                assert!(in_time.contains(&took), "{took:?}");
            }
            for bad in ["p1", "p2-a-1-b", &token[..token.len() - 1], &upper, "%20"] {
                ask(bad).await.is_problem(400, "bad_token");
            }
        }
    }
}

pub(super) async fn pages_walk_the_whole_chain(site: &Site) {
    // Four large links: a page of them ends by its size, and says that there is more.
    let large = format!("{{\"payload\":\"{}\"}}", noise(1_000_000));
    let first = id_of(&site.post(0, "", large.clone()).await.is(201));
    for _ in 0..11 {
        site.post(0, "?wait=everywhere", large.clone()).await.is(201);
    }
    let head = site.settle().await;
    for zone in 0..3 {
        for limit in ["limit=7", "limit=1000", ""] {
            let (links, pages) = walk(site, zone, 0, limit).await;
            assert_eq!(links, (1..=head).collect::<Vec<_>>(), "zone {zone}, {limit}");
            assert!(pages > 1, "a page is bounded in bytes too");
        }
        assert_eq!(
            walk(site, zone, first - 1, "limit=1000").await.0,
            (first..=head).collect::<Vec<_>>()
        );
        let end = site.get(zone, &format!("/v1/chain?after={head}")).await.is(200);
        assert_eq!((&end["links"], end.get("next_after")), (&Value::Array(Vec::new()), None));
        let newest = site.get(zone, "/v1/chain/head").await.is(200);
        assert_eq!((id_of(&newest["head"]), &newest["frontier"]), (head, &Value::from(head)));
        let same = site.get(zone, &format!("/v1/chain/{head}")).await.is(200);
        assert_eq!(newest["head"], same);
    }
}

/// Text that does not shrink when it is stored.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'A' + u8::try_from((state >> 33) % 58).expect("small"))
    };
    (0..bytes).map(|_| next()).map(|c| if c == '\\' { '_' } else { c }).collect()
}

/// Ids of all links above `after`, page by page, and the number of pages.
async fn walk(site: &Site, zone: usize, mut after: u64, limit: &str) -> (Vec<u64>, usize) {
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let got = site.get(zone, &format!("/v1/chain?after={after}&{limit}")).await;
        let page = got.is(200);
        pages += 1;
        let links = page["links"].as_array().expect("links");
        let most = limit.strip_prefix("limit=").map_or(100, |most| most.parse().expect("a number"));
        assert!(links.len() <= most && page["frontier"] == got.frontier());
        ids.extend(links.iter().map(id_of));
        let Some(next) = page.get("next_after").and_then(Value::as_u64) else {
            assert!(ids.last().is_none_or(|last| *last == got.frontier()), "it reached the end");
            return (ids, pages);
        };
        assert_eq!(Some(&next), ids.last());
        after = next;
    }
}

pub(super) async fn every_answer_says_its_frontier(site: &Site) {
    let head = site.settle().await;
    for zone in 0..3 {
        for path in [
            "/v1/chain/1",
            "/v1/chain",
            "/v1/chain/head",
            "/v1/status",
            "/chain/recent",
            "/cluster/config",
            "/ping",
            "/healthz",
            "/readyz",
            "/readyz/write",
            "/metrics",
            "/openapi.json",
            "/nothing/here",
            "/v1/chain/x",
            "/v1/chain/999999999",
        ] {
            let got = site.get(zone, path).await;
            assert_eq!(got.frontier(), head, "{path}");
            assert!(!got.header("x-request-id").is_empty(), "{path}");
        }
        let refused = site.post(zone, "", "{").await;
        assert_eq!((refused.status, refused.frontier()), (400, head));
    }
    let written = Got::of(site.http.post(format!("{}/chain", site.api(1)))).await;
    assert!(Some(written.frontier()) >= written.is(200)["zk_id"].as_u64());
}
