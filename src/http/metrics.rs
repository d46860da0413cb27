//! `/metrics` by itself, for a process without an HTTP interface of its own.

use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::telemetry::{EXPOSITION_TYPE, Metrics};

/// Serves `GET /metrics` until it is dropped. For a loopback listener: it holds no slow client to
/// any limit.
pub async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) {
    let expose = move || {
        let text = metrics.exposition();
        async move { ([(CONTENT_TYPE, EXPOSITION_TYPE)], text) }
    };
    let router = Router::new().route("/metrics", get(expose));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics server ended");
    }
}
