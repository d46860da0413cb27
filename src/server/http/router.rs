//! The routes of an API node and what surrounds every request: its id, its count, whose page sent it, and
//! the room that its answer takes.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use pghc_api::error::ErrorCode;
use pghc_runtime::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::openapi::{openapi_json, routes};
use super::origin;
use super::response::{ApiError, finish, request_id};
use super::server::limits::{Cors, Limits};
use super::server::serve::{Answering, Rules, serve_by};
use super::state::{Api, Shared};
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
        Self::with(service, metrics, limits, shutdown, openapi_json().into())
    }

    /// The route labels that the node's metrics are to be made with.
    #[must_use]
    pub fn routes() -> &'static [&'static str] {
        ROUTES
    }
}

/// The routes over a node's state.
#[derive(Clone)]
struct Face {
    router: Router,
    cors: Cors,
    api: Shared,
}

impl Face {
    fn new(api: Shared, cors: &Cors) -> Self {
        let (router, _) = routes().split_for_parts();
        let mut router = router
            .fallback(async || ApiError::new(ErrorCode::NotFound, "there is no such path"))
            .with_state(Shared::clone(&api));
        if let Some(layer) = origin::layer(cors) {
            router = router.layer(layer);
        }
        Self { router, cors: cors.clone(), api }
    }

    async fn routed(&self, request: Request<Body>) -> Result<Response, ApiError> {
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
        let response = self.routed(request).await.unwrap_or_else(ApiError::into_response);
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

/// Serves `api` on `listener` until its shutdown signal; then takes no more connections, lets the
/// requests under way finish for at most `limits.drain`, and returns.
///
/// Closing happens without an answer where HTTP has none to give: a head that takes too long, a
/// client that takes no answer, too many connections. A head that is too large or not HTTP is
/// answered 431 or 400 without a body.
pub async fn serve(listener: TcpListener, api: Arc<Api>, cors: &Cors) {
    let (shutdown, metrics) = (api.shutdown.clone(), Arc::clone(&api.metrics));
    let rules = Rules { limits: api.limits.clone(), shutdown, metrics };
    serve_by(listener, Face::new(api, cors), rules).await;
}

/// Whether an answer may have been given before the whole body was read.
fn leaves_body(response: &Response) -> bool {
    let code = response.extensions().get::<ApiError>().map(ApiError::code);
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
