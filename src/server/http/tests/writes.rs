//! Single writes, by v1 and by the original interface.

use pghc_api::token::Token;
use serde_json::json;

use crate::http::tests::{Server, until};
use crate::http::{Cors, Limits};
use crate::zone::{ReadError, SubmitError};

const TIMEOUT: &str = "?timeout=20ms";

#[tokio::test]
async fn write_is_answered_with_link_frontier_and_token() {
    let server = Server::start().await;
    let got = server.post("", r#"{"payload": {"b": 1, "a": [2e3] } }"#).await;
    assert_eq!(got.status, 201, "{got:?}");
    let link = got.json();
    assert_eq!((&link["id"], &link["node_id"]), (&json!(1), &json!("eu-api-1")));
    assert_eq!(link["hash"].as_str().map(str::len), Some(32));
    assert_eq!(link["digest"].as_str().map(str::len), Some(64));
    assert_eq!(link["written_at"], "2023-11-14T22:13:20.000000Z");
    assert_eq!(got.header("pghc-frontier"), "1");
    assert_eq!(link["token"], got.header("pghc-token"));
    let timing = got.header("server-timing");
    assert!(timing.starts_with("order;dur=") && timing.contains(", apply;dur="), "{timing}");
    let token: Token = got.header("pghc-token").parse().expect("a token");
    assert_eq!(token.id().get(), 1);
    let fields: Vec<_> = link.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(fields, ["digest", "hash", "id", "node_id", "token", "written_at"]);
    assert_eq!(server.double.payloads(), [Some(r#"{"b": 1, "a": [2e3] }"#.to_owned())]);
}

#[tokio::test]
async fn original_protocol_takes_an_empty_body() {
    let server = Server::start().await;
    let got = server.send(server.client.post(server.url("/chain"))).await;
    assert_eq!(got.status, 200);
    let link = got.json();
    let fields: Vec<_> = link.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(fields, ["hash", "node_id", "zk_id"]);
    assert_eq!((&link["zk_id"], &link["node_id"]), (&json!(1), &json!("eu-api-1")));
    assert_eq!(
        (got.header("pghc-frontier"), got.header("content-type")),
        ("1", "application/json")
    );
    let whatever = server.client.post(server.url("/chain?_=1")).body("not json");
    assert_eq!(server.send(whatever).await.json()["zk_id"], 2);
    for _ in 0..10 {
        server.send(server.client.post(server.url("/chain"))).await;
    }
    let recent = server.get("/chain/recent").await.json();
    let ids: Vec<_> = recent.as_array().expect("an array").iter().map(|l| &l["zk_id"]).collect();
    assert_eq!(json!(ids), json!([12, 11, 10, 9, 8, 7, 6, 5, 4, 3]));
    assert_eq!(server.get("/ping").await.text, "pong");
    let config = server.get("/cluster/config").await.json();
    assert_eq!((&config["num_bdr_groups"], &config["num_total_pg_nodes"]), (&json!(3), &json!(6)));
    assert_eq!(config["zones"][1]["zone"], "us");
}

#[tokio::test]
async fn retry_with_its_key_answers_the_first_link() {
    let server = Server::start().await;
    let keyed = |body: &'static str| server.request("", body).header("Idempotency-Key", "order-7");
    let first = server.send(keyed(r#"{"payload":1}"#)).await;
    let again = server.send(keyed(r#"{ "payload" : 1 }"#)).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json(), again.json());
    assert_eq!(again.header("pghc-token"), first.header("pghc-token"));
    let reused = server.send(keyed(r#"{"payload":2}"#)).await;
    assert_eq!(reused.is_problem(422, "key_reused")["id"], 1);
    let original = server.client.post(server.url("/chain")).header("Idempotency-Key", "original");
    let ids = [
        server.send(original.try_clone().expect("no body")).await.json(),
        server.send(original).await.json(),
    ];
    assert_eq!(ids[0], ids[1]);
    assert_eq!(server.double.ordered(), 2);
}

#[tokio::test]
async fn a_write_waits_as_it_was_asked_to() {
    let server = Server::start().await;
    server.double.behave(|b| b.applies_nothing = true);
    let ordered = server.post("?wait=ordered", "{}").await;
    assert_eq!((ordered.status, ordered.header("pghc-frontier")), (201, "0"));
    let late = server.post(TIMEOUT, "{}").await.is_problem(504, "committed_not_applied");
    assert_eq!(late["id"], 2);
    let applied = server.post("?wait=applied&timeout=20000", "{}");
    let catch_up = async {
        until("the write is ordered", || server.double.ordered() == 3).await;
        server.double.catch_up();
    };
    let (applied, ()) = tokio::join!(applied, catch_up);
    assert_eq!((applied.status, applied.header("pghc-frontier")), (201, "3"));
    server.double.behave(|b| {
        b.applies_nothing = false;
        b.slow_zones = vec!["asia".to_owned()];
    });
    let everywhere = server.post("?wait=everywhere", "{}").await;
    let problem = everywhere.is_problem(504, "committed_not_applied");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("asia")), "{problem}");
    server.double.behave(|b| b.slow_zones.clear());
    assert_eq!(server.post("?wait=everywhere", "{}").await.status, 201);
}

#[tokio::test]
async fn repeated_write_behind_the_zone_is_committed_not_applied() {
    let server = Server::start().await;
    let keyed = || server.request(TIMEOUT, "{}").header("Idempotency-Key", "k");
    server.double.behave(|b| b.applies_nothing = true);
    server.send(keyed()).await.is_problem(504, "committed_not_applied");
    let late = server.send(keyed()).await.is_problem(504, "committed_not_applied");
    assert_eq!(late["id"], 1);
    server.double.catch_up();
    server.double.behave(|b| b.read = Some(ReadError::Database("refused".to_owned())));
    let unread = server.send(keyed()).await.is_problem(504, "committed_not_applied");
    assert_eq!(unread["id"], 1);
    server.double.behave(|b| b.read = None);
    assert_eq!(server.send(keyed()).await.status, 200);
}

#[tokio::test]
async fn each_submit_error_has_an_answer_and_a_count() {
    let server = Server::start().await;
    for (error, status, code) in [
        (SubmitError::Overloaded, 429, "overloaded"),
        (SubmitError::Draining, 503, "draining"),
        (SubmitError::Halted("digest differs at 7".to_owned()), 503, "zone_halted"),
        (SubmitError::Refused("the node name is in use".to_owned()), 503, "not_ready"),
        (SubmitError::NoLeader, 503, "no_leader"),
        (SubmitError::TimeLimit, 503, "time_limit"),
        (SubmitError::NoSpace, 507, "no_space"),
        (SubmitError::Unknown, 504, "outcome_unknown"),
    ] {
        server.double.behave(|b| b.submit = Some((2, error)));
        server.post("", "{}").await.is_problem(status, code);
        server.send(server.client.post(server.url("/chain"))).await.is_problem(status, code);
        let line = format!(
            "pghc_http_writes_answered_total{{outcome=\"{}\"}} 2",
            match code {
                "outcome_unknown" => "unknown",
                "zone_halted" => "halted",
                code => code,
            }
        );
        let metrics = server.get("/metrics").await.text;
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    assert_eq!(server.double.ordered(), 0);
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_unless_named() {
    let preflight = |server: &Server| {
        let request = server.client.request(reqwest::Method::OPTIONS, server.url("/chain"));
        request.header("origin", "http://a.example").header("access-control-request-method", "POST")
    };
    let closed = Server::start().await;
    closed.send(preflight(&closed)).await.is_problem(403, "foreign_origin");
    for request in [
        closed.client.post(closed.url("/chain")),
        closed.request("", "{}"),
        closed.client.get(closed.url("/v1/chain")),
    ] {
        let got = closed.send(request.header("origin", "http://a.example")).await;
        let said = got.is_problem(403, "foreign_origin");
        assert!(said["detail"].as_str().is_some_and(|text| text.contains("cors-origin")), "{said}");
        assert!(!got.headers.contains_key("access-control-allow-origin"));
    }
    let cross_site =
        closed.client.post(closed.url("/chain")).header("sec-fetch-site", "cross-site");
    closed.send(cross_site).await.is_problem(403, "foreign_origin");
    assert_eq!(closed.double.ordered(), 0);
    let named = Cors::Origins(vec!["http://a.example".to_owned()]);
    let named = Server::with(Limits::default(), named).await;
    let got = named.send(preflight(&named)).await;
    let origin = got.header("access-control-allow-origin");
    assert_eq!((got.status, origin), (200, "http://a.example"));
    let posted = named.client.post(named.url("/chain")).header("origin", "http://a.example");
    let got = named.send(posted).await;
    let origin = got.header("access-control-allow-origin");
    assert_eq!((got.status, origin), (200, "http://a.example"));
    assert!(got.header("access-control-expose-headers").contains("pghc-token"));
}

#[tokio::test]
async fn a_post_that_a_form_could_make_is_refused() {
    let server = Server::start().await;
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    {
        for path in ["/chain", "/v1/chain"] {
            let request = server.client.post(server.url(path)).header("content-type", kind);
            server.send(request.body("{}")).await.is_problem(415, "unsupported_media_type");
        }
    }
    assert_eq!(server.double.ordered(), 0);
    assert_eq!(server.send(server.client.post(server.url("/chain"))).await.status, 200, "no body");
    let json = server.client.post(server.url("/chain")).header("content-type", "application/json");
    assert_eq!(server.send(json.body("{}")).await.status, 200);
}

#[tokio::test]
async fn only_a_plain_request_id_is_kept() {
    let server = Server::start().await;
    let with_id =
        |id: &'static str| server.client.get(server.url("/ping")).header("x-request-id", id);
    assert_eq!(server.send(with_id("trace-1:a.b_c")).await.header("x-request-id"), "trace-1:a.b_c");
    for other in ["a b", "", "x{}"] {
        let id = server.send(with_id(other)).await.header("x-request-id").to_owned();
        assert!(!id.is_empty() && id != other, "{id}");
    }
}
