//! The routes of an API node and what surrounds every request: its id, its count, its last resort.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use pghc_api::error::ErrorCode;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::answer::{FRONTIER, REQUEST_ID, Refusal, TOKEN, finish, request_id};
use super::limits::{Cors, Limits};
use super::openapi::{openapi_json, routes};
use crate::telemetry::Metrics;
use crate::zone::Service;

/// Values of the route label: every path of the node, and one for all else.
const ROUTES: &[&str] = &[
    "/chain",
    "/v1/chain",
    "/v1/chain/{id}",
    "/v1/chain/head",
    "/chain/recent",
    "/cluster/config",
    "/ping",
    "/v1/status",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "other",
];

/// What every handler stands on.
pub(super) type Shared = Arc<Api>;

/// The HTTP face of one node.
pub struct Api {
    pub(super) service: Arc<dyn Service>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    pub(super) shutdown: CancellationToken,
    pub(super) openapi: Bytes,
    reports: AtomicU64,
    started: Instant,
}

/// The routes over a node's state.
#[derive(Clone)]
pub(super) struct Face {
    router: Router,
    pub(super) api: Shared,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("node", &self.service.identity().node).finish_non_exhaustive()
    }
}

impl Api {
    /// The face of `service`. From when `shutdown` is cancelled, new writes are refused and
    /// `/readyz` says no.
    #[must_use]
    pub fn new(
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Self {
        let openapi = openapi_json().into();
        let (reports, started) = (AtomicU64::new(0), Instant::now());
        Self { service, metrics, limits, shutdown, openapi, reports, started }
    }

    /// Cancel it to shut down.
    #[must_use]
    pub fn shutdown_signal(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// The route labels that the node's metrics are to be made with.
    #[must_use]
    pub fn routes() -> &'static [&'static str] {
        ROUTES
    }

    /// Logs that the database failed a request: once a second at most, since in an outage every
    /// request would say so.
    pub(super) fn report_database(&self, error: &str) {
        let second = self.started.elapsed().as_secs() + 1;
        if self.reports.swap(second, Ordering::Relaxed) != second {
            tracing::warn!(error, "the zone's database failed a request");
        }
    }
}

impl Face {
    pub(super) fn new(api: Shared, cors: &Cors) -> Self {
        let (router, _) = routes().split_for_parts();
        let mut router = router
            .fallback(async || Refusal::new(ErrorCode::NotFound, "there is no such path"))
            .with_state(Shared::clone(&api));
        if let Some(layer) = cors_layer(cors) {
            router = router.layer(layer);
        }
        Self { router, api }
    }

    /// Answers one request, whatever happens.
    pub(super) async fn answer(&self, request: Request<Body>) -> Response {
        let start = Instant::now();
        let request_id = request_id(request.headers());
        let route = route_of(request.uri().path());
        let has_body = request.body().size_hint().exact() != Some(0);
        let answer = AssertUnwindSafe(self.router.clone().call(request)).catch_unwind().await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Err(_) => {
                let request_id = request_id.to_str().unwrap_or_default();
                tracing::error!(request_id, route = ROUTES[route], "a request made us panic");
                let detail = "this is a bug of pghc; the node's log has it under the request id";
                Refusal::new(ErrorCode::Internal, detail).into_response()
            }
        };
        let mut response = finish(response, request_id, self.api.service.frontier());
        if has_body && leaves_body(response.status()) {
            // The connection ends after this answer, with the rest of the body. Unless it is told, a
            // client would send its next request into that.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.api.metrics.http.answered(route, response.status().as_u16(), start.elapsed());
        response
    }
}

/// Whether an answer of this status may have been given before the whole body was read.
fn leaves_body(status: StatusCode) -> bool {
    let is_read = [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !is_read.contains(&status)
}

/// Position in [`ROUTES`] of the route that a path belongs to.
fn route_of(path: &str) -> usize {
    let known = ROUTES.iter().position(|route| *route == path);
    known.unwrap_or_else(|| {
        let is_link = path.strip_prefix("/v1/chain/").is_some_and(|id| !id.contains('/'));
        if is_link { 2 } else { ROUTES.len() - 1 }
    })
}

fn cors_layer(cors: &Cors) -> Option<CorsLayer> {
    let origins = match cors {
        Cors::Closed => return None,
        Cors::Any => AllowOrigin::any(),
        Cors::Origins(origins) => {
            let usable = |origin: &String| HeaderValue::try_from(origin).ok();
            AllowOrigin::list(origins.iter().filter_map(usable))
        }
    };
    let key = HeaderName::from_static("idempotency-key");
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE, key, REQUEST_ID])
        .expose_headers([FRONTIER, TOKEN, REQUEST_ID, header::RETRY_AFTER])
        .max_age(std::time::Duration::from_secs(3600));
    Some(layer)
}

#[cfg(test)]
mod tests {
    use super::{ROUTES, route_of};

    #[test]
    fn every_path_of_the_contract_has_its_own_route_label() {
        let contract = crate::http::openapi::document();
        for path in contract.paths.paths.keys() {
            assert_eq!(ROUTES[route_of(path)], path);
        }
        assert_eq!(contract.paths.paths.len(), ROUTES.len() - 1);
        assert_eq!(ROUTES[route_of("/v1/chain/7")], "/v1/chain/{id}");
        assert_eq!(ROUTES[route_of("/v1/chain/7/8")], "other");
    }
}
