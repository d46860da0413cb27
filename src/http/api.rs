//! The routes of an API node and what surrounds every request: its id, its count, whose page sent it, and
//! the room that its answer takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use pghc_api::error::ErrorCode;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::answer::{Refusal, finish, request_id};
use super::limits::{Cors, Limits};
use super::openapi::{openapi_json, routes};
use super::origin;
use super::room::Room;
use super::serve::Answering;
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
    "/readyz/write",
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
    pub(super) room: Arc<Room>,
    pub(super) shutdown: CancellationToken,
    leaving: CancellationToken,
    pub(super) openapi: Bytes,
    reports: AtomicU64,
    started: Instant,
}

/// The routes over a node's state.
#[derive(Clone)]
pub(super) struct Face {
    router: Router,
    cors: Cors,
    api: Shared,
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
        let (room, leaving) = (Room::new(limits.request_bytes), CancellationToken::new());
        Self { service, metrics, limits, room, shutdown, leaving, openapi, reports, started }
    }

    /// Cancel it to shut down.
    #[must_use]
    pub fn shutdown_signal(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Cancel it some time before shutdown: `/readyz` says no from then on, and everything is served still,
    /// so that those who look there send their requests elsewhere before connections are refused.
    #[must_use]
    pub fn leaving_signal(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Whether the node was told to end.
    pub(super) fn leaves(&self) -> bool {
        self.leaving.is_cancelled() || self.shutdown.is_cancelled()
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
        if let Some(layer) = origin::layer(cors) {
            router = router.layer(layer);
        }
        Self { router, cors: cors.clone(), api }
    }

    async fn routed(&self, request: Request<Body>) -> Result<Response, Refusal> {
        origin::check(&self.cors, request.method(), request.headers())?;
        let Ok(response) = self.router.clone().call(request).await;
        self.api.room.hold(response)
    }
}

impl Answering for Face {
    async fn answer(&self, request: Request<Body>) -> Response {
        let start = Instant::now();
        let request_id = request_id(request.headers());
        let route = route_of(request.uri().path());
        let has_body = request.body().size_hint().exact() != Some(0);
        let response = self.routed(request).await.unwrap_or_else(Refusal::into_response);
        // The connection ends after this answer: with the rest of the body, into which a client would send
        // its next request, or because the next one belongs elsewhere.
        let closes = has_body && leaves_body(&response) || self.api.leaves();
        let mut response = finish(response, request_id, self.api.service.frontier());
        if closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.api.metrics.http.answered(route, response.status().as_u16(), start.elapsed());
        response
    }
}

/// Whether an answer may have been given before the whole body was read.
fn leaves_body(response: &Response) -> bool {
    let code = response.extensions().get::<Refusal>().map(Refusal::code);
    match response.status() {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::TOO_MANY_REQUESTS => false,
        status if status.is_client_error() => true,
        _ => matches!(code, Some(ErrorCode::Busy | ErrorCode::Draining)),
    }
}

/// Position in [`ROUTES`] of the route that a path belongs to.
fn route_of(path: &str) -> usize {
    let known = ROUTES.iter().position(|route| *route == path);
    known.unwrap_or_else(|| {
        let is_link = path.strip_prefix("/v1/chain/").is_some_and(|id| !id.contains('/'));
        if is_link { 2 } else { ROUTES.len() - 1 }
    })
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
