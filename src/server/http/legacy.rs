//! The interface of the original PGHC, so that its clients run unchanged: paths, fields and
//! statuses are theirs. Tokens, frontiers and keys are there for clients that use them.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use pghc_api::wire::Status;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::{read_whole, refuse_form};
use super::params::{READ, RequestParams, WRITE, idempotency_key};
use super::response::{ApiError, LinkSummary, json};
use super::state::Shared;
use super::v1::outcome::{write_one, written_answer};
use super::v1::read::{behind, reach};
use crate::zone::{NewWrite, ReadResult};

/// Links that `GET /chain/recent` answers at most.
const RECENT_LINKS: usize = 10;

/// Answer of `GET /cluster/config`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ClusterConfig {
    /// Identity of the cluster.
    cluster_id: String,
    /// Zone of the answering node.
    zone: String,
    /// Name of the answering node.
    node_id: String,
    /// The zones, by name.
    zones: Vec<ClusterZone>,
    /// As the original called it: groups of PostgreSQL servers with a writable one each. Zones.
    num_bdr_groups: usize,
    /// As the original counted them: a writable server a zone, and one read by each API node. Its
    /// clients subtract the zones to learn how many API nodes there are; we count one a zone.
    num_total_pg_nodes: usize,
}

/// A zone in a [`ClusterConfig`].
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ClusterZone {
    /// Name of the zone.
    zone: String,
    /// API node that applies there, while one is known.
    node_id: Option<String>,
    /// Newest id applied there.
    frontier: u64,
}

/// Adds a link without a payload, as the original did. A body is read and ignored; a form or plain text,
/// which any page could have a browser send, is refused.
#[utoipa::path(
    post, path = "/chain", operation_id = "add_link", tag = "original",
    params(
        ("wait" = Option<String>, Query, description = "As for `POST /v1/chain`"),
        ("timeout" = Option<String>, Query, description = "As for `POST /v1/chain`"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for `POST /v1/chain`"),
    ),
    responses(
        (status = 200, description = "The new link", body = pghc_api::wire::OriginalLink,
            headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone"), ("Pghc-Token" = String, description = "Token of the write"))),
        (status = "default", description = "As for `POST /v1/chain`", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn add_link(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let ask = RequestParams::parse_lenient(&head.uri, WRITE)?;
    let key = idempotency_key(&head.headers)?;
    refuse_form(&head.headers)?;
    drop(read_whole(body, &api.limits, &api.room).await?);
    let written = write_one(&api, NewWrite { key, payload: None }, &ask).await?;
    let link = &written.link;
    let mut text = String::with_capacity(160);
    LinkSummary::write_original(link.id, link.hash, &link.node, &mut text);
    Ok(written_answer(&api, &written, StatusCode::OK, text))
}

/// The newest ten links, newest first.
#[utoipa::path(
    get, path = "/chain/recent", operation_id = "recent", tag = "original",
    params(
        ("at_least" = Option<String>, Query, description = "As for `GET /v1/chain/{id}`"),
        ("linearizable" = Option<bool>, Query, description = "As for `GET /v1/chain/{id}`"),
        ("timeout" = Option<String>, Query, description = "As for `GET /v1/chain/{id}`"),
    ),
    responses(
        (status = 200, description = "The newest links", body = Vec<pghc_api::wire::OriginalLink>,
            headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone"))),
        (status = "default", description = "As for `GET /v1/chain/{id}`", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn recent(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let ask = RequestParams::parse_lenient(request.uri(), READ)?;
    let need = reach(&api, &ask).await?;
    let read = api.service.recent(RECENT_LINKS, need).await;
    let ReadResult { value: links, frontier } = read.map_err(|error| behind(&api, need, error))?;
    let mut text = String::with_capacity(links.len() * 128 + 2);
    text.push('[');
    for (index, (id, hash, node)) in links.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        LinkSummary::write_original(*id, *hash, node, &mut text);
    }
    text.push(']');
    Ok(json(StatusCode::OK, text.into_bytes(), frontier))
}

/// The zones and the original's two counts.
#[utoipa::path(
    get, path = "/cluster/config", operation_id = "cluster_config", tag = "original",
    responses((status = 200, description = "What the cluster is made of", body = ClusterConfig,
        headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone")))),
)]
pub(crate) async fn cluster_config(State(api): State<Shared>) -> Response {
    let Status { cluster_id, zone, node_id, zones, frontier, .. } = api.service.status().await;
    let config = ClusterConfig {
        cluster_id,
        zone,
        node_id,
        num_bdr_groups: zones.len(),
        num_total_pg_nodes: zones.len() * 2,
        zones: zones
            .into_iter()
            .map(|zone| ClusterZone {
                zone: zone.zone,
                node_id: zone.applier,
                frontier: zone.frontier,
            })
            .collect(),
    };
    let body = serde_json::to_vec(&config).expect("a configuration is plain data");
    json(StatusCode::OK, body, frontier)
}

/// Answers `pong`.
#[utoipa::path(
    get, path = "/ping", operation_id = "ping", tag = "original",
    responses((status = 200, description = "`pong`", body = String, content_type = "text/plain")),
)]
pub(crate) async fn ping() -> &'static str {
    "pong"
}
