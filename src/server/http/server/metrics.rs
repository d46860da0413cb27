//! `/metrics` by itself, for a process without an HTTP interface of its own.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use pghc_runtime::telemetry::{EXPOSITION_TYPE, Metrics};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::limits::Limits;
use super::serve::{Answering, Rules, serve_by};

/// Most connections to it at a time: few ask, and the descriptors belong to the log.
pub const METRICS_CONNECTIONS_MAX: usize = 8;

/// Serves `GET /metrics` until it is dropped. Clients are held to the limits of an API node's.
pub async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) {
    let limits = Limits { connections: METRICS_CONNECTIONS_MAX, ..Limits::default() };
    let rules = Rules { limits, shutdown: CancellationToken::new(), metrics: Arc::clone(&metrics) };
    serve_by(listener, Exposition(metrics), rules).await;
}

#[derive(Clone)]
struct Exposition(Arc<Metrics>);

impl Answering for Exposition {
    async fn answer(&self, request: Request<Body>) -> Response {
        let (status, kind, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => (StatusCode::OK, EXPOSITION_TYPE, self.0.exposition()),
            _ => (StatusCode::NOT_FOUND, "text/plain", "GET /metrics is all there is\n".to_owned()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
