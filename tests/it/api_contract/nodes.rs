//! Several nodes in a zone, and what a node does for its operators and against its clients.

use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use pghc_api::wire::Status;
use pghc_dev::deployment::Part;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Got, PROMPT, id_of};
use crate::harness::{Site, wait_for};

/// The longest a head may take, and some slack of a loaded machine.
const HEAD_MAX: Duration = Duration::from_secs(10 + 30);
/// The longest a body may take, and some slack.
const BODY_MAX: Duration = Duration::from_secs(30 + 30);

/// Numbers of the node that applies for the first zone, and of the standby.
async fn applier_and_standby(site: &Site) -> (usize, usize) {
    let urls = site.record().zones[0].api.clone();
    let applier = wait_for("an applier", async || {
        for (number, url) in urls.iter().enumerate() {
            let status = site.http.get(format!("{url}/v1/status")).send().await.ok()?;
            if status.json::<Status>().await.ok()?.is_applier {
                return Some(number);
            }
        }
        None
    });
    let applier = applier.await;
    (applier, 1 - applier)
}

pub(super) async fn standby_node_serves_writes_like_the_applier(site: &Site) {
    let (applier, standby) = applier_and_standby(site).await;
    let urls = site.record().zones[0].api.clone();
    let write = async |node: usize, query: &str| {
        let request = site.http.post(format!("{}/v1/chain{query}", urls[node]));
        let request = request.header("content-type", "application/json").body("{\"payload\":1}");
        Got::of(request).await
    };
    for node in [standby, applier, standby] {
        let got = write(node, "").await;
        let link = got.is(201);
        assert_eq!(link["node_id"], format!("eu-{}", node + 1));
        assert!(got.frontier() >= id_of(&link), "it is answered when it is applied: {got:?}");
        for reader in [applier, standby] {
            let url =
                format!("{}/v1/chain/{}?at_least={}", urls[reader], id_of(&link), id_of(&link));
            assert_eq!(Got::of(site.http.get(url)).await.is(200)["hash"], link["hash"]);
        }
        write(node, "?wait=everywhere").await.is(201);
    }
    let both = (0..100).map(|number| write(number % 2, ""));
    assert!(join_all(both).await.iter().all(|got| got.status == 201), "both serve at once");
}

pub(super) async fn metrics_follow_the_frontier(site: &Site) {
    for url in site.record().zones[0].api.clone() {
        let frontier = async || {
            let got = Got::of(site.http.get(format!("{url}/metrics"))).await;
            assert!(got.header("content-type").contains("text"), "{got:?}");
            let samples = samples(&got.text);
            let of = |name: &str| samples.iter().find(|(sample, _)| sample == name).map(|s| s.1);
            of("pghc_zone_frontier_id").expect("the frontier is measured")
        };
        let before = frontier().await;
        let request = site.http.post(format!("{url}/v1/chain"));
        let link = Got::of(request.header("content-type", "application/json").body("{}")).await;
        #[expect(clippy::cast_precision_loss, reason = "a small id")]
        let id = id_of(&link.is(201)) as f64;
        let after = frontier().await;
        assert!(before < id && after >= id, "{before}, {id}, {after}");
    }
}

/// Every sample of an exposition, after each of its lines was held against the format.
fn samples(text: &str) -> Vec<(String, f64)> {
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        name.starts_with("pghc_") && name.chars().all(plain)
    };
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            let known = matches!(words[0], "HELP" | "TYPE" | "UNIT") && is_name(words[1]);
            assert!(comment == "EOF" || known, "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(is_name(name) && labels.ends_with('}'), "{line}");
        samples.push((series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }
    assert!(text.ends_with("# EOF\n") && samples.len() > 20, "{text}");
    samples
}

pub(super) async fn the_contract_lists_every_route(site: &Site) {
    let contract = site.get(1, "/openapi.json").await.is(200);
    let paths = contract["paths"].as_object().expect("paths");
    let mut routes: Vec<String> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods").keys();
            methods.map(move |method| format!("{method} {path}"))
        })
        .collect();
    routes.sort();
    assert_eq!(
        routes,
        [
            "get /chain/recent",
            "get /cluster/config",
            "get /healthz",
            "get /metrics",
            "get /openapi.json",
            "get /ping",
            "get /readyz",
            "get /readyz/write",
            "get /v1/chain",
            "get /v1/chain/head",
            "get /v1/chain/{id}",
            "get /v1/status",
            "post /chain",
            "post /v1/chain",
        ]
    );
    for route in routes.iter().filter_map(|route| route.strip_prefix("get ")) {
        // A node is not ready for as long as its coordinator knows no leader.
        wait_for(&format!("200 of {route}"), async || {
            let got = site.get(1, &route.replace("{id}", "1")).await;
            assert!([200, 503].contains(&got.status), "{route}: {got:?}");
            (got.status == 200).then_some(())
        })
        .await;
    }
    let stored = include_str!("../../../api/openapi.json");
    assert_eq!(contract, serde_json::from_str::<Value>(stored).expect("JSON"));
}

pub(super) async fn a_request_keeps_its_id(site: &Site) {
    let ping = |id: &str| Got::of(site.http.get(site.url(0, "/ping")).header("x-request-id", id));
    assert_eq!(ping("order-17:a.b_c").await.header("x-request-id"), "order-17:a.b_c");
    let long = "x".repeat(65);
    for unusable in ["", "a b", "a\u{1b}[31m", long.as_str()] {
        // Some of these no HTTP library sends; what it sends is not repeated.
        let Ok(value) = reqwest::header::HeaderValue::from_bytes(unusable.as_bytes()) else {
            continue;
        };
        let request = site.http.get(site.url(0, "/ping")).header("x-request-id", value);
        let given = Got::of(request).await.header("x-request-id").to_owned();
        assert!(!given.is_empty() && given != unusable, "{given}");
    }
    let (one, two) = (site.get(0, "/ping").await, site.get(0, "/ping").await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    site.get(0, "/none").await.is_problem(404, "not_found");
}

async fn connect(site: &Site, begin: &str) -> TcpStream {
    let address = site.api(0).replace("http://", "");
    let mut stream = TcpStream::connect(address).await.expect("the node listens");
    stream.write_all(begin.as_bytes()).await.expect("it reads");
    stream
}

pub(super) async fn slow_request_heads_are_closed_without_delaying_others(site: &Site) {
    let begin = "GET /ping HTTP/1.1\r\nhost: x\r\nx-slow: ";
    // The first round counts from before they connect: they are closed after ten seconds.
    let mut start = Instant::now();
    let held = join_all((0..50).map(|_| connect(site, begin))).await;
    for _ in 0..20 {
        site.post(0, "", "{}").await.is(201);
        site.get(0, "/ping").await;
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        start = Instant::now();
    }
    let closed = held.into_iter().map(async |stream| {
        let (mut reader, mut writer) = stream.into_split();
        let dribble = async {
            // A byte at intervals does not extend the time limit. The pace is the client's; the
            // test waits for nothing.
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let closed = async {
            let mut rest = Vec::new();
            let _ = reader.read_to_end(&mut rest).await;
        };
        let end = async {
            tokio::select! { () = dribble => {}, () = closed => {} }
        };
        timeout(HEAD_MAX, end).await.is_ok()
    });
    assert!(join_all(closed).await.into_iter().all(|closed| closed), "some stayed open");
}

/// A request whose body is never sent.
pub(super) struct NeverFinished {
    stream: TcpStream,
    since: Instant,
}

pub(super) async fn start_a_body_that_never_ends(site: &Site) -> NeverFinished {
    let begin = "POST /v1/chain HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: 100\r\n\r\n{\"payload\":";
    NeverFinished { stream: connect(site, begin).await, since: Instant::now() }
}

impl NeverFinished {
    pub(super) async fn expect_408(mut self) {
        let mut answer = Vec::new();
        let left = BODY_MAX.saturating_sub(self.since.elapsed());
        let read = timeout(left, self.stream.read_to_end(&mut answer)).await;
        read.expect("it is closed").expect("without a reset");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("request_timeout"), "{answer}");
    }
}

/// The second zone's nodes: the first still owes an answer to the body that never ends.
pub(super) async fn stopping_node_finishes_requests_in_flight(site: &Site) {
    for node in [0, 1] {
        let before = site.settle().await;
        let url = site.record().zones[1].api[node].clone();
        let hold = site.hold_applying(1).await;
        let request = site.http.post(format!("{url}/v1/chain?timeout=30s"));
        let request = request.header("content-type", "application/json").body("{}");
        let under_way = tokio::task::spawn(Got::of(request));
        wait_for("the write to be ordered", async || {
            (site.get(0, "/v1/chain/head").await.frontier() > before).then_some(())
        })
        .await;
        let old = site.deployment.pid("us", Part::Api(node)).expect("it runs");
        let term = site.deployment.kill("us", Part::Api(node), Signal::SIGTERM).await;
        assert_eq!(term.expect("a child"), Some(old));
        wait_for("the node to take no more connections", async || {
            TcpStream::connect(url.replace("http://", "")).await.err().map(drop)
        })
        .await;
        drop(hold);
        let link = under_way.await.expect("no panic").is(201);
        assert_eq!(id_of(&link), before + 1, "node {node}");
        wait_for("the node to run again", async || {
            let pid = site.deployment.pid("us", Part::Api(node));
            pid.filter(|pid| *pid != old).map(drop)
        })
        .await;
    }
}

/// Two of three coordinators are stopped, the leader among them: no write can be ordered, and none
/// is reported as ordered.
pub(super) async fn without_a_quorum_nothing_is_acknowledged(site: &Site) {
    let before = site.settle().await;
    let leader = site.leader_zone().await;
    let zones = ["eu", "us", "ap"];
    let left = zones.iter().position(|zone| *zone != leader).expect("a follower");
    let gone = zones.iter().filter(|zone| **zone != zones[left]);
    for zone in gone.clone() {
        site.deployment.pause_supervision(zone, Part::Coordinator).await.expect("a child");
        site.kill(zone, Part::Coordinator).await;
    }
    // Neither is an acknowledgement; both say that the same request may be sent again.
    let mut unknown = 0;
    for _ in 0..3 {
        let start = Instant::now();
        let got = site.post(left, "?timeout=500ms", "{\"payload\":\"no quorum\"}").await;
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        if got.status == 504 {
            got.is_problem(504, "outcome_unknown");
            unknown += 1;
        } else {
            got.is_problem(503, "no_leader");
        }
    }
    for path in ["/v1/chain/1", "/v1/chain", "/v1/chain/head", "/chain/recent"] {
        let read = site.get(left, &format!("{path}?linearizable=true&timeout=300ms")).await;
        assert_eq!(read.status, 503, "{path}: {read:?}");
    }
    for zone in gone {
        site.deployment.resume_supervision(zone, Part::Coordinator).await.expect("a child");
    }
    let head = site.settle().await;
    assert!(head - before <= unknown, "a refused write was written: {before}, {unknown}, {head}");
    site.post(left, "", "{}").await.is(201);
}
