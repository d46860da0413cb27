//! Probes, status and metrics: is the node alive, does it read, does it write, how is the
//! cluster.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pghc_api::error::ErrorCode;
use pghc_runtime::telemetry::EXPOSITION_TYPE;

use super::response::{ApiError, JSON, json};
use super::state::{Api, Shared};
use crate::zone::Unready;

/// The cluster as this node's coordinator sees it.
#[utoipa::path(
    get, path = "/v1/status", operation_id = "status", tag = "operation",
    responses((status = 200, description = "Leader, coordinators, zones and their frontiers", body = pghc_api::wire::Status,
        headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone")))),
)]
pub(crate) async fn status(State(api): State<Shared>) -> Response {
    let status = api.service.status().await;
    let body = serde_json::to_vec(&status).expect("a status is plain data");
    json(StatusCode::OK, body, status.frontier)
}

/// Whether the process answers at all. Restart it when it does not.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "operation",
    responses((status = 200, description = "`ok`", body = String, content_type = "text/plain")),
)]
pub(crate) async fn healthz() -> &'static str {
    "ok"
}

/// Whether reads should be sent here. Needs no coordinator: a zone that is cut off goes on reading.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "operation",
    responses(
        (status = 200, description = "`ready`", body = String, content_type = "text/plain"),
        (status = 503, description = "Not yet, or no longer; the detail says why", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn readyz(State(api): State<Shared>) -> Result<&'static str, ApiError> {
    stays(&api)?;
    api.service.ready_to_read().map_err(unready)?;
    Ok("ready")
}

/// Whether writes should be sent here: the zone applies, and a coordinator knows a leader.
#[utoipa::path(
    get, path = "/readyz/write", operation_id = "readyz_write", tag = "operation",
    responses(
        (status = 200, description = "`ready`", body = String, content_type = "text/plain"),
        (status = 503, description = "Not yet, or no longer; the detail says why", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn readyz_write(State(api): State<Shared>) -> Result<&'static str, ApiError> {
    stays(&api)?;
    api.service.ready_to_write().map_err(unready)?;
    Ok("ready")
}

fn unready(unready: Unready) -> ApiError {
    match unready {
        Unready::Halted(why) => ApiError::new(ErrorCode::ZoneHalted, why),
        Unready::Other(why) => ApiError::new(ErrorCode::NotReady, why),
    }
}

/// A node that was told to end is ready for nothing, though it still serves what comes.
fn stays(api: &Api) -> Result<(), ApiError> {
    if api.leaves() {
        return Err(ApiError::new(
            ErrorCode::Draining,
            "this node was told to end; use another one",
        ));
    }
    Ok(())
}

/// Metrics of this node in OpenMetrics text form, as Prometheus reads it.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operation",
    responses((status = 200, description = "Metrics", body = String, content_type = "application/openmetrics-text")),
)]
pub(crate) async fn metrics(State(api): State<Shared>) -> Response {
    // Writes that are not applied by this node move the frontier too.
    api.metrics.zone.frontier_id.set(api.service.frontier());
    let kind = HeaderValue::from_static(EXPOSITION_TYPE);
    ([(CONTENT_TYPE, kind)], api.metrics.exposition()).into_response()
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "operation",
    responses((status = 200, description = "The OpenAPI document of this node", content_type = "application/json")),
)]
pub(crate) async fn openapi(State(api): State<Shared>) -> Response {
    ([(CONTENT_TYPE, JSON)], api.openapi.clone()).into_response()
}
