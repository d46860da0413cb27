//! Bad input, each with its exact answer, and nothing of it in any chain.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Got;
use crate::harness::Site;

/// In every body that must never be written.
const MARK: &str = "never-written";

pub(super) async fn nothing_of_a_refused_request_is_in_the_chain(site: &Site) {
    let before = site.settle().await;
    for zone in 0..3 {
        bodies(site, zone).await;
        headers(site, zone).await;
        parameters(site, zone).await;
        paths_and_methods(site, zone).await;
        broken_http(site, zone).await;
        bulk(site, zone).await;
    }
    assert_eq!(site.settle().await, before, "a refused write was written");
    for zone in 0..3 {
        let count = "select count(*) from pghc.chain where strpos(payload::text, $1) > 0";
        let found = site.database(zone).await.query_one(count, &[&MARK]).await.expect("readable");
        assert_eq!(found.get::<_, i64>(0), 0);
    }
}

/// Bodies that are no write: status, code, and position of the fault.
fn bad_bodies() -> Vec<(Vec<u8>, u16, &'static str, &'static str)> {
    let deep = format!("{{\"payload\":{}{}}}", "[".repeat(65), "]".repeat(65));
    let text = |body: &str| body.as_bytes().to_vec();
    vec![
        (text(""), 400, "bad_json", "empty"),
        (text("{\"payload\":\"never-written\""), 400, "bad_json", "at byte 26"),
        (text("{\"payload\":\"never-written\"}x"), 400, "bad_json", "at byte 27"),
        (text("{\"payload\":\"never-written\"}{}"), 400, "bad_json", "at byte 27"),
        (text("{\"payload\":NaN}"), 400, "bad_json", "at byte 11"),
        (text("{\"payload\":Infinity}"), 400, "bad_json", "at byte 11"),
        (text("{'payload':1}"), 400, "bad_json", "at byte 1"),
        (text("{\"payload\":01}"), 400, "bad_json", "at byte 11"),
        (text("{\"payload\":1,}"), 400, "bad_json", "at byte 13"),
        (text("\"never-written\""), 400, "bad_json", "at byte 0"),
        (text("null"), 400, "bad_json", "at byte 0"),
        (b"{\"payload\":\"never-written\xff\"}".to_vec(), 400, "bad_json", "at byte 25"),
        (b"\xef\xbb\xbf{}".to_vec(), 400, "bad_json", "at byte 0"),
        (text(&deep), 400, "bad_json", "at byte 75"),
        (
            text("{\"payload\":{\"a\":\"never-written\",\"a\":2}}"),
            400,
            "duplicate_key",
            "at byte 32",
        ),
        (text("{\"payload\":{\"a\":1,\"\\u0061\":2}}"), 400, "duplicate_key", "at byte 18"),
        (text("{\"payload\":1,\"payload\":2}"), 400, "duplicate_key", "at byte 13"),
        (text("{\"payload\":\"never-written\",\"ttl\":2}"), 400, "unknown_field", "at byte 27"),
        (text("{\"Payload\":1}"), 400, "unknown_field", "at byte 1"),
        (text("{\"payload\":\"never-written\\u0000\"}"), 422, "unstorable_payload", "at byte 25"),
        (text("{\"payload\":{\"\\u0000\":1}}"), 422, "unstorable_payload", "at byte"),
        (text("{\"payload\":\"\\ud800\"}"), 422, "unstorable_payload", "at byte 12"),
        (text("{\"payload\":\"\\udc00\\ud800\"}"), 422, "unstorable_payload", "at byte 12"),
        (text("{\"payload\":1e400000}"), 422, "unstorable_payload", "at byte 11"),
        (text("{\"payload\":-1e-400000}"), 422, "unstorable_payload", "at byte 11"),
    ]
}

async fn bodies(site: &Site, zone: usize) {
    for (body, status, code, place) in bad_bodies() {
        let problem = site.post(zone, "", body).await.is_problem(status, code);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(place), "{place} is not in {detail}");
    }
}

async fn headers(site: &Site, zone: usize) {
    let body = format!("{{\"payload\":\"{MARK}\"}}");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "x", ""] {
        let request = site.http.post(format!("{}/v1/chain", site.api(zone)));
        let request = request.header("content-type", kind).body(body.clone());
        Got::of(request).await.is_problem(415, "unsupported_media_type");
    }
    let long = "k".repeat(129);
    for key in [&b""[..], b"a b", b"a\tb", b"k\xc3\xa4", b"\x80", long.as_bytes()] {
        let request = site.writing(zone, "", body.clone()).header("idempotency-key", key);
        Got::of(request).await.is_problem(400, "bad_idempotency_key");
        let original = site.http.post(format!("{}/chain", site.api(zone)));
        let original = Got::of(original.header("idempotency-key", key)).await;
        original.is_problem(400, "bad_idempotency_key");
    }
    let twice = site.writing(zone, "", body).header("idempotency-key", "a");
    let twice = Got::of(twice.header("idempotency-key", "a")).await;
    twice.is_problem(400, "bad_idempotency_key");
}

async fn parameters(site: &Site, zone: usize) {
    let body = format!("{{\"payload\":\"{MARK}\"}}");
    for query in [
        "wait=never",
        "wait=Applied",
        "timeout=0",
        "timeout=-1",
        "timeout=1.5s",
        "timeout=61s",
        "timeout=99999999999999999999",
        "wiat=applied",
        "at_least=1",
        "wait=applied&wait=applied",
        "wait=%ff",
    ] {
        site.post(zone, &format!("?{query}"), body.clone()).await.is_problem(400, "bad_request");
    }
    for path in [
        "/v1/chain/0",
        "/v1/chain/-1",
        "/v1/chain/+1",
        "/v1/chain/9223372036854775808",
        "/v1/chain/18446744073709551616",
        "/v1/chain/x",
        "/v1/chain/1e0",
        "/v1/chain?limit=-1",
        "/v1/chain?limit=0",
        "/v1/chain?limit=1001",
        "/v1/chain?after=-1",
        "/v1/chain?after=9223372036854775808",
        "/v1/chain?from=3&to=2",
        "/v1/chain/1?at_least=0",
        "/v1/chain/1?at_least=9223372036854775808",
        "/v1/chain/1?linearizable=1",
        "/chain/recent?linearizable=maybe",
    ] {
        site.get(zone, path).await.is_problem(400, "bad_request");
    }
    let beyond = site.get(zone, "/v1/chain/9223372036854775807").await;
    let problem = beyond.is_problem(404, "not_found");
    assert_eq!(problem["frontier"], beyond.frontier(), "the head is told");
}

async fn paths_and_methods(site: &Site, zone: usize) {
    for (method, path, allow) in [
        ("DELETE", "/v1/chain", "GET,HEAD,POST"),
        ("PUT", "/v1/chain/1", "GET,HEAD"),
        ("GET", "/chain", "POST"),
        ("POST", "/chain/recent", "GET,HEAD"),
        ("PATCH", "/v1/status", "GET,HEAD"),
    ] {
        let method = method.parse().expect("a method");
        let got = Got::of(site.http.request(method, site.url(zone, path))).await;
        got.is_problem(405, "method_not_allowed");
        let mut allowed: Vec<_> = got.header("allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{path}");
    }
    for path in ["/", "/v1", "/v1/chain/", "/v1/chain/1/2", "/v2/chain", "/../etc/passwd", "/%00"] {
        site.get(zone, path).await.is_problem(404, "not_found");
    }
}

/// Sends bytes and reads until the node closes; returns the status line.
async fn raw(site: &Site, zone: usize, bytes: &[u8]) -> String {
    let address = site.api(zone).replace("http://", "");
    let mut stream = TcpStream::connect(address).await.expect("the node listens");
    // A node that refuses early may close while we still send.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    let _ = read.await.expect("the node closes");
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

async fn broken_http(site: &Site, zone: usize) {
    let large =
        format!("GET /ping HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "y".repeat(64 << 10));
    assert!(raw(site, zone, large.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let post = "POST /v1/chain HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    for (broken, status) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(), "400"),
        (format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"), "400"),
        (format!("{post}content-length: -2\r\n\r\n{{}}"), "400"),
        (format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"), "400"),
        (format!("{post}content-length: 99999999999\r\n\r\n{{}}"), "413"),
    ] {
        let answer = raw(site, zone, broken.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{broken:?}: {answer:?}");
    }
}

async fn bulk(site: &Site, zone: usize) {
    let body = bad_bodies().into_iter().filter(|(body, ..)| !body.contains(&b'\n'));
    let (mut lines, mut expected) = (Vec::new(), Vec::new());
    for (body, status, code, _) in body {
        lines.extend_from_slice(&body);
        lines.push(b'\n');
        expected.push((status, code));
    }
    let request = site.http.post(format!("{}/v1/chain", site.api(zone)));
    let request = request.header("content-type", "application/x-ndjson").body(lines);
    let got = Got::of(request).await;
    let answers: Vec<serde_json::Value> =
        got.text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(answers.len(), expected.len());
    for (answer, (status, code)) in answers.iter().zip(expected) {
        assert_eq!((&answer["status"], &answer["code"]), (&status.into(), &code.into()));
    }
}
