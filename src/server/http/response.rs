//! Answers: links as JSON, errors as problems, and the headers every answer carries.
//!
//! Links are formatted by hand into one buffer, since each write is answered by one. Every text in
//! them is of checked ASCII that needs no escaping in JSON.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SERVER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pghc_api::chain::{Digest, Link, LinkHash};
use pghc_api::error::{ErrorCode, Problem};
use pghc_api::id::{ClusterId, NodeName, WriteId};
use pghc_api::time::Micros;
use pghc_api::token::Token;

/// Newest id this zone had applied when the answer was given.
pub(crate) const FRONTIER: HeaderName = HeaderName::from_static("pghc-frontier");
/// Causality token of the write just answered.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("pghc-token");
/// Correlates an answer with the node's log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const SOFTWARE: HeaderValue = HeaderValue::from_static(concat!("pghc/", env!("CARGO_PKG_VERSION")));

/// Header of almost every answer: it was true once.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Seconds after which a refused request may be sent again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A request that is not answered as it was asked. [`finish`] makes it a body.
#[derive(Debug, Clone)]
pub(crate) struct ApiError(Box<Problem>);

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// Names the write the refusal is about.
    pub(crate) fn id(mut self, id: WriteId) -> Self {
        self.0.id = Some(id.get());
        self
    }

    /// Says how far the zone is.
    pub(crate) fn frontier(mut self, frontier: u64) -> Self {
        self.0.frontier = Some(frontier);
        self
    }

    /// The problem as one line of NDJSON, with its line end.
    pub(crate) fn write_line(&self, line: &mut Vec<u8>) {
        serde_json::to_writer(&mut *line, &self.0).expect("a problem is plain data");
        line.push(b'\n');
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.0.status).expect("codes have statuses");
        response.extensions_mut().insert(self);
        response
    }
}

/// Identifies a request in the log: by the client's own id if it is plain, else by a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: std::sync::LazyLock<u32> = std::sync::LazyLock::new(rand::random);
    let is_plain = |value: &&HeaderValue| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        (1..=64).contains(&value.len()) && value.as_bytes().iter().all(plain)
    };
    if let Some(given) = headers.get(REQUEST_ID).filter(is_plain) {
        return given.clone();
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{:08x}-{number:x}", *PROCESS);
    HeaderValue::try_from(text).expect("hex digits are visible ASCII")
}

/// Completes an answer: problems get their body, and every answer its request id and, where it does
/// not yet say at which frontier it was given, the zone's `frontier`.
pub(crate) fn finish(mut response: Response, request_id: HeaderValue, frontier: u64) -> Response {
    let refusal = match response.extensions_mut().remove::<ApiError>() {
        Some(refusal) => Some(refusal),
        None if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
            Some(method_not_allowed(response.headers()))
        }
        None => None,
    };
    if let Some(mut refusal) = refusal {
        refusal.0.request_id = request_id.to_str().ok().map(str::to_owned);
        let body = serde_json::to_vec(&refusal.0).expect("a problem is plain data");
        *response.body_mut() = Body::from(body);
        let headers = response.headers_mut();
        // The router has counted the empty body.
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, PROBLEM);
        if let Some(frontier) = refusal.0.frontier {
            headers.insert(FRONTIER, frontier.into());
        }
        if matches!(refusal.0.status, 429 | 503 | 507) {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        tracing::debug!(
            request_id = refusal.0.request_id,
            code = refusal.0.code.as_str(),
            "refused"
        );
    }
    let headers = response.headers_mut();
    headers.entry(FRONTIER).or_insert_with(|| frontier.into());
    headers.insert(REQUEST_ID, request_id);
    headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
    headers.insert(SERVER, SOFTWARE);
    response
}

fn method_not_allowed(headers: &HeaderMap) -> ApiError {
    let allowed = headers.get(ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or("others");
    ApiError::new(ErrorCode::MethodNotAllowed, format!("the path takes {allowed}"))
}

/// A body of JSON with the frontier it was given at.
pub(crate) fn json(status: StatusCode, body: Vec<u8>, frontier: u64) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(FRONTIER, frontier.into());
    response
}

/// The fields of a link in an answer, without its payload.
#[derive(Debug, Clone)]
pub(crate) struct LinkSummary {
    pub(crate) id: WriteId,
    pub(crate) node: NodeName,
    pub(crate) hash: LinkHash,
    pub(crate) digest: Digest,
    pub(crate) written_at: Micros,
}

impl LinkSummary {
    pub(crate) fn token(&self, cluster: &ClusterId) -> Token {
        Token::new(cluster, self.id, self.digest)
    }

    /// Appends the members of `wire::LinkBody`, without the braces around them.
    pub(crate) fn write_members(&self, cluster: &ClusterId, text: &mut String) {
        let Self { id, node, hash, digest, written_at } = self;
        let token = self.token(cluster);
        let written = write!(
            text,
            r#""id":{id},"node_id":"{node}","hash":"{hash}","digest":"{digest}","written_at":"{written_at}","token":"{token}""#
        );
        written.expect("writing to a string cannot fail");
    }

    /// Appends a `wire::OriginalLink`.
    pub(crate) fn write_original(id: WriteId, hash: LinkHash, node: &NodeName, text: &mut String) {
        write!(text, r#"{{"zk_id":{id},"hash":"{hash}","node_id":"{node}"}}"#)
            .expect("writing to a string cannot fail");
    }
}

pub(crate) fn of_link(link: Link) -> LinkSummary {
    let Link { id, node, hash, digest, written_at, payload: _ } = link;
    LinkSummary { id, node, hash, digest, written_at }
}
