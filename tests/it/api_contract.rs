//! The HTTP contract against real nodes, coordinators and databases: every status, field and byte
//! that a client may rely on. A deployment takes seconds to start, so one test makes many claims on it.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with the test")]

mod bad_input;
mod bulk;
mod nodes;
mod reads;
mod writes;

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::harness::Site;

/// Below the 10 s of the default request timeout and of reading a head: a slower request on a busy
/// machine was delayed by one of them, or its own `timeout` was ignored.
const PROMPT: Duration = Duration::from_millis(9_500);

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) text: String,
}

impl Got {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, text: answer.text().await.expect("a whole answer") }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    /// Asserts the status; returns the body.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Asserts a problem of this status and code, whole in form.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> Value {
        let body = self.is(status);
        assert_eq!((body["code"].as_str(), &body["status"]), (Some(code), &Value::from(status)));
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert_eq!(self.headers.contains_key("retry-after"), matches!(status, 429 | 503));
        let detail = body["detail"].as_str().expect("a detail");
        for inner in ["select ", "pghc.chain", "/src/", "panicked"] {
            assert!(!detail.contains(inner), "{detail}");
        }
        body
    }

    /// As [`Self::is_problem`]; `None` where a busy machine was too late and the answer names a
    /// time limit or a silent database. Never a success.
    #[track_caller]
    pub(crate) fn problem_unless_busy(&self, status: u16, code: &str) -> Option<Value> {
        assert!(self.status >= 400, "{self:?}");
        let is_other = self.status != status || self.json()["code"] != code;
        let is_busy = [503, 504].contains(&self.status);
        (!(is_other && is_busy)).then(|| self.is_problem(status, code))
    }

    #[track_caller]
    pub(crate) fn frontier(&self) -> u64 {
        self.header("pghc-frontier").parse().unwrap_or_else(|_| panic!("no frontier: {self:?}"))
    }
}

impl Site {
    fn url(&self, zone: usize, path: &str) -> String {
        format!("{}{path}", self.api(zone))
    }

    pub(crate) async fn get(&self, zone: usize, path: &str) -> Got {
        Got::of(self.http.get(self.url(zone, path))).await
    }

    /// Posts JSON to `/v1/chain` with this query string.
    async fn post(&self, zone: usize, query: &str, body: impl Into<reqwest::Body>) -> Got {
        Got::of(self.writing(zone, query, body)).await
    }

    async fn post_with_key(&self, zone: usize, key: &str, body: &str) -> Got {
        Got::of(self.writing(zone, "", body.to_owned()).header("idempotency-key", key)).await
    }

    fn writing(
        &self,
        zone: usize,
        query: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::RequestBuilder {
        let url = self.url(zone, &format!("/v1/chain{query}"));
        self.http.post(url).header("content-type", "application/json").body(body)
    }

    /// Newest committed id.
    async fn head(&self) -> u64 {
        let head = self.get(0, "/v1/chain/head?linearizable=true").await.is(200);
        head["frontier"].as_u64().expect("an id")
    }

    async fn database(&self, zone: usize) -> tokio_postgres::Client {
        let dsn = self.record().zones[zone].dsn.clone();
        let connected = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the zone's database answers");
        tokio::task::spawn(connection);
        client
    }

    /// Lets a zone apply nothing until the answer is dropped; its rows can be read.
    async fn hold_applying(&self, zone: usize) -> tokio_postgres::Client {
        let client = self.database(zone).await;
        let hold = "begin; lock table pghc.frontier in exclusive mode";
        client.batch_execute(hold).await.expect("a superuser may lock");
        client
    }
}

fn id_of(link: &Value) -> u64 {
    link["id"].as_u64().unwrap_or_else(|| panic!("no id: {link}"))
}

fn token_of(link: &Value) -> String {
    link["token"].as_str().unwrap_or_else(|| panic!("no token: {link}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_read_equal_in_every_zone() {
    let site = Site::start(1).await;
    writes::write_response_has_exactly_the_named_fields(&site).await;
    writes::a_key_means_one_write_in_every_zone(&site).await;
    writes::a_payload_stays_byte_exact(&site).await;
    writes::body_is_limited_to_one_mebibyte(&site).await;
    writes::a_write_waits_as_it_was_asked(&site).await;
    writes::a_time_limit_that_passes_is_named(&site).await;
    reads::a_reader_sees_its_write_in_every_other_zone(&site).await;
    reads::a_token_of_another_chain_is_refused(&site).await;
    reads::pages_walk_the_whole_chain(&site).await;
    reads::every_answer_says_its_frontier(&site).await;
    bad_input::nothing_of_a_refused_request_is_in_the_chain(&site).await;
    bulk::bulk_of_2500_lines_is_answered_line_by_line(&site).await;
    bulk::a_bulk_write_with_a_key_may_be_repeated_elsewhere(&site).await;
    writes::zone_not_applying_delays_only_its_waiters(&site).await;
    site.settle().await;
    let proof = site.verify().await;
    assert_eq!(proof.status.code(), Some(0), "{proof:?}");
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_a_zone_serves_until_shutdown() {
    let site = Site::start(2).await;
    let never_finished = nodes::start_a_body_that_never_ends(&site).await;
    nodes::standby_node_serves_writes_like_the_applier(&site).await;
    nodes::metrics_follow_the_frontier(&site).await;
    nodes::the_contract_lists_every_route(&site).await;
    nodes::a_request_keeps_its_id(&site).await;
    nodes::slow_request_heads_are_closed_without_delaying_others(&site).await;
    nodes::stopping_node_finishes_requests_in_flight(&site).await;
    never_finished.expect_408().await;
    site.settle().await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn write_is_not_acknowledged_without_quorum() {
    let site = Site::start(1).await;
    site.post(0, "?wait=everywhere", "{}").await.is(201);
    nodes::without_a_quorum_nothing_is_acknowledged(&site).await;
    site.deployment.stop().await;
}
