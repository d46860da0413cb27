//! Bad input, each with its exact answer; and that nothing of it is ever written.

use futures::stream;

use super::Server;
use crate::http::{Cors, Limits};

#[tokio::test]
async fn bad_body_is_refused_without_a_write() {
    let server = Server::start().await;
    let deep = format!("{{\"payload\":{}{}}}", "[".repeat(65), "]".repeat(65));
    for (body, status, code, position) in [
        (&b""[..], 400, "bad_json", "empty"),
        (b"{\"payload\":1", 400, "bad_json", "at byte 12"),
        (b"{\"payload\":1}x", 400, "bad_json", "at byte 13"),
        (b"{\"payload\":NaN}", 400, "bad_json", "at byte 11"),
        (b"{\"payload\":\"\xff\"}", 400, "bad_json", "at byte 12"),
        (b"[1]", 400, "bad_json", "at byte 0"),
        (deep.as_bytes(), 400, "bad_json", "at byte 75"),
        (b"{\"payload\":{\"a\":1,\"a\":2}}", 400, "duplicate_key", "at byte 18"),
        (b"{\"payload\":1,\"payload\":2}", 400, "duplicate_key", "at byte 13"),
        (b"{\"payload\":1,\"ttl\":2}", 400, "unknown_field", "at byte 13"),
        (b"{\"payload\":\"\\u0000\"}", 422, "unstorable_payload", "at byte 12"),
        (b"{\"payload\":\"\\ud800\"}", 422, "unstorable_payload", "at byte 12"),
        (b"{\"payload\":1e400000}", 422, "unstorable_payload", "at byte 11"),
    ] {
        let problem = server.post("", body.to_vec()).await.is_problem(status, code);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(position), "{position} is not in {detail}");
    }
    assert_eq!(server.double.ordered(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_declared_or_not() {
    let limits = Limits { body_bytes: 1000, ..Limits::default() };
    let server = Server::with(limits, Cors::Closed).await;
    let body = |length: usize| format!("{{\"payload\":\"{}\"}}", "x".repeat(length - 14));
    assert_eq!(server.post("", body(1000)).await.status, 201);
    let problem = server.post("", body(1001)).await.is_problem(413, "payload_too_large");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("1000 bytes")));
    let pieces = body(1001).into_bytes().chunks(100).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let chunked = stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
    let chunked = reqwest::Body::wrap_stream(chunked);
    server.post("", chunked).await.is_problem(413, "payload_too_large");
    let original = server.client.post(server.url("/chain")).body(body(1001));
    server.send(original).await.is_problem(413, "payload_too_large");
    assert_eq!(server.double.ordered(), 1);
    // The rest of the body ends with the connection, so the client must not use it again.
    let refused = server.post("", body(1001)).await;
    assert_eq!(refused.header("connection"), "close");
    assert_eq!(server.post("", body(1000)).await.header("connection"), "");
}

#[tokio::test]
async fn the_default_limit_is_one_mebibyte() {
    let server = Server::start().await;
    let body = |length: usize| format!("{{\"payload\":\"{}\"}}", "x".repeat(length - 14));
    assert_eq!(server.post("", body(1 << 20)).await.status, 201);
    server.post("", body((1 << 20) + 1)).await.is_problem(413, "payload_too_large");
}

#[tokio::test]
async fn a_wrong_type_method_or_path_is_named() {
    let server = Server::start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let request = server.client.post(server.url("/v1/chain")).header("content-type", kind);
        server.send(request.body("{}")).await.is_problem(415, "unsupported_media_type");
    }
    let charset = server.client.post(server.url("/v1/chain"));
    let charset = charset.header("content-type", "Application/JSON; charset=utf-8").body("{}");
    assert_eq!(server.send(charset).await.status, 201);
    let untyped = server.client.post(server.url("/v1/chain")).body("{}");
    assert_eq!(server.send(untyped).await.status, 201);
    for (method, path, allow) in [
        ("DELETE", "/v1/chain", "GET,HEAD,POST"),
        ("GET", "/chain", "POST"),
        ("POST", "/v1/chain/1", "GET,HEAD"),
        ("PUT", "/ping", "GET,HEAD"),
    ] {
        let method = method.parse().expect("a method");
        let got = server.send(server.client.request(method, server.url(path))).await;
        got.is_problem(405, "method_not_allowed");
        let mut allowed: Vec<_> = got.header("allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{path}");
    }
    for path in ["/", "/v2/chain", "/v1/chain/1/2", "/reload_schema"] {
        server.get(path).await.is_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_bad_idempotency_key_is_refused() {
    let server = Server::start().await;
    let long = "k".repeat(129);
    for key in [&b""[..], b"a b", b"\xc3\xa4", long.as_bytes()] {
        let request = server.request("", "{}").header("Idempotency-Key", key);
        server.send(request).await.is_problem(400, "bad_idempotency_key");
        let original = server.client.post(server.url("/chain")).header("Idempotency-Key", key);
        server.send(original).await.is_problem(400, "bad_idempotency_key");
    }
    let twice = server.request("", "{}").header("Idempotency-Key", "a");
    let twice = twice.header("Idempotency-Key", "b");
    server.send(twice).await.is_problem(400, "bad_idempotency_key");
    let longest = server.request("", "{}").header("Idempotency-Key", "k".repeat(128));
    assert_eq!(server.send(longest).await.status, 201);
    assert_eq!(server.double.ordered(), 1);
}

#[tokio::test]
async fn a_bad_parameter_is_refused_before_anything_is_done() {
    let server = Server::start().await;
    server.post("", "{}").await;
    for query in [
        "wait=never",
        "wait=",
        "timeout=0",
        "timeout=-1",
        "timeout=5m",
        "timeout=60001",
        "timeout=61s",
        "timeout=99999999999999999999s",
        "timeout=",
        "wiat=ordered",
        "at_least=1",
        "wait=ordered&wait=applied",
    ] {
        server.post(&format!("?{query}"), "{}").await.is_problem(400, "bad_request");
    }
    for path in [
        "/v1/chain/0",
        "/v1/chain/-1",
        "/v1/chain/9223372036854775808",
        "/v1/chain/x",
        "/v1/chain/1.0",
        "/v1/chain/%31",
        "/v1/chain?limit=-1",
        "/v1/chain?limit=0",
        "/v1/chain?limit=1001",
        "/v1/chain?limit=ten",
        "/v1/chain?after=-1",
        "/v1/chain?after=9223372036854775808",
        "/v1/chain?order=desc",
        "/v1/chain/1?after=0",
        "/v1/chain/1?linearizable=yes",
        "/v1/chain/1?timeout=1h",
        "/v1/chain/1?at_least=0",
        "/v1/chain/1?at_least=9223372036854775808",
        "/chain/recent?at_least=0",
    ] {
        server.get(path).await.is_problem(400, "bad_request");
    }
    let zero = format!("p1-0190a1b2-0-{}", "ab".repeat(16));
    for token in ["x", "-1", "p1-0190a1b2-1-abababababababab", &zero, "p9-a-1-b"] {
        let got = server.get(&format!("/v1/chain/head?at_least={token}")).await;
        got.is_problem(400, "bad_token");
    }
    server.get("/v1/chain/2").await.is_problem(404, "not_found");
    assert_eq!(server.double.ordered(), 1);
}

#[tokio::test]
async fn plain_milliseconds_and_units_are_understood() {
    let server = Server::start().await;
    for timeout in ["1", "500ms", "5s", "60000", "60s"] {
        assert_eq!(server.post(&format!("?timeout={timeout}"), "{}").await.status, 201);
    }
    assert_eq!(server.get("/v1/chain?linearizable=true&timeout=5s").await.status, 200);
}
