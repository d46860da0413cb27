//! Reading the chain. Every answer says at which frontier it was given and shows at least all of it.

use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use pghc_api::chain::Link;
use pghc_api::error::ErrorCode;
use pghc_api::id::WriteId;
use pghc_api::token::Token;
use tokio::time::Instant;

use crate::http::params::{AtLeast, PAGE, READ, RequestParams, path_id};
use crate::http::response::{ApiError, json, of_link};
use crate::http::state::{Api, Shared};
use crate::zone::{ReadError, ReadRequirement, ReadResult};

/// A link never changes. Only its reader may keep it: a copy on the way would be served past a fence.
const FOR_EVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// Reads one link.
#[utoipa::path(
    get, path = "/v1/chain/{id}", operation_id = "link", tag = "chain",
    params(
        ("id" = u64, Path, description = "Position in the total order, from 1"),
        ("at_least" = Option<String>, Query, description = "Answer only once this zone has applied this id or token"),
        ("linearizable" = Option<bool>, Query, description = "Answer only once this zone has applied all that was committed when the request arrived"),
        ("timeout" = Option<String>, Query, description = "Longest wait: `500ms`, `5s`, or milliseconds; at most 60 s, default 10 s"),
    ),
    responses(
        (status = 200, description = "The link with its payload", body = pghc_api::wire::LinkBody,
            headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone"), ("Cache-Control" = String, description = "`private, max-age=31536000, immutable` without `at_least` and `linearizable`, since a link never changes; else, and on every other answer of this interface, `no-store`"))),
        (status = 400, description = "Not understood, or a token of another cluster", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 404, description = "This zone has not applied the id, or it does not exist yet", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 409, description = "The token is from another chain than this zone's", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 503, description = "Halted, no database or leader, no room for the answer, or the time limit passed", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 504, description = "This zone was not there in time; `frontier` says how far it is", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn link(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = path_id(request.uri())?;
    let ask = RequestParams::of(request.uri(), READ)?;
    let need = reach(&api, &ask).await?;
    let read = api.service.link(id, need).await.map_err(|error| behind(&api, need, error))?;
    let ReadResult { value: link, frontier } = read;
    let Some(link) = link else {
        let detail = format!("this zone has no link {id}; its newest is {frontier}");
        return Err(ApiError::new(ErrorCode::NotFound, detail).frontier(frontier));
    };
    let mut text = String::new();
    write_link(&api, link, &mut text);
    let mut response = json(StatusCode::OK, text.into_bytes(), frontier);
    // A frontier is true now only; an ordered link may be cached.
    if ask.at_least.is_none() && !ask.linearizable && id.get() <= api.service.known() {
        response.headers_mut().insert(CACHE_CONTROL, FOR_EVER);
    }
    Ok(response)
}

/// Reads links in order.
#[utoipa::path(
    get, path = "/v1/chain", operation_id = "page", tag = "chain",
    params(
        ("after" = Option<u64>, Query, description = "Links above this id; default 0"),
        ("limit" = Option<u64>, Query, description = "Most links to answer, 1 to 1000; default 100"),
        ("at_least" = Option<String>, Query, description = "Answer only once this zone has applied this id or token"),
        ("linearizable" = Option<bool>, Query, description = "Answer only once this zone has applied all that was committed when the request arrived"),
        ("timeout" = Option<String>, Query, description = "Longest wait: `500ms`, `5s`, or milliseconds; at most 60 s, default 10 s"),
    ),
    responses(
        (status = 200, description = "A page of links", body = pghc_api::wire::Page,
            headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone"))),
        (status = "default", description = "As for one link", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn page(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let ask = RequestParams::of(request.uri(), PAGE)?;
    let need = reach(&api, &ask).await?;
    let read = api.service.page(ask.after, ask.limit, need).await;
    let ReadResult { value: links, frontier } = read.map_err(|error| behind(&api, need, error))?;
    let last = links.last().map(|link| link.id.get());
    // Not the count of links says that there are more: large ones end a page before its limit.
    let more = last.filter(|last| *last < frontier);
    let mut text = String::with_capacity(links.len() * 512 + 64);
    text.push_str("{\"links\":[");
    for (index, link) in links.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write_link(&api, link, &mut text);
    }
    text.push(']');
    if let Some(last) = more {
        text.push_str(&format!(",\"next_after\":{last}"));
    }
    text.push_str(&format!(",\"frontier\":{frontier}}}"));
    Ok(json(StatusCode::OK, text.into_bytes(), frontier))
}

/// Reads the newest link.
#[utoipa::path(
    get, path = "/v1/chain/head", operation_id = "head", tag = "chain",
    params(
        ("at_least" = Option<String>, Query, description = "Answer only once this zone has applied this id or token"),
        ("linearizable" = Option<bool>, Query, description = "Answer only once this zone has applied all that was committed when the request arrived"),
        ("timeout" = Option<String>, Query, description = "Longest wait: `500ms`, `5s`, or milliseconds; at most 60 s, default 10 s"),
    ),
    responses(
        (status = 200, description = "The newest link of this zone, if there is one", body = pghc_api::wire::HeadBody,
            headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone"))),
        (status = "default", description = "As for one link", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn head(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let ask = RequestParams::of(request.uri(), READ)?;
    let need = reach(&api, &ask).await?;
    let read = api.service.newest(need).await;
    let ReadResult { value: link, frontier } = read.map_err(|error| behind(&api, need, error))?;
    let mut text = String::from("{\"head\":");
    match link {
        Some(link) => write_link(&api, link, &mut text),
        None => text.push_str("null"),
    }
    text.push_str(&format!(",\"frontier\":{frontier}}}"));
    Ok(json(StatusCode::OK, text.into_bytes(), frontier))
}

/// Waits until the zone is where the reader wants it; answers what the read must show.
///
/// The zone's database may go back after that, since one that was restored is filled again. So the
/// read itself makes sure: it must show what the reader asked for, or, when the reader did not say,
/// what this node ever knew to be applied: its readers may have seen that.
pub(crate) async fn reach(api: &Api, ask: &RequestParams) -> Result<ReadRequirement, ApiError> {
    let service = &api.service;
    let cluster = &service.identity().cluster;
    if let Some(AtLeast::Token(token)) = &ask.at_least
        && !token.is_from(cluster)
    {
        let detail = format!("the token {token} is not of this cluster, {cluster}");
        return Err(ApiError::new(ErrorCode::WrongCluster, detail));
    }
    service.may_read().map_err(|error| unreadable(api, error))?;
    let deadline = Instant::now() + ask.timeout;
    let may_be_replica = ask.linearizable || ask.at_least.is_some();
    let mut wanted = ask.at_least.as_ref().map_or(0, |at_least| at_least.id().get());
    if ask.linearizable {
        let committed = service.read_index(deadline).await;
        wanted = wanted.max(committed.map_err(|error| unreadable(api, error))?);
    }
    let mut need = ReadRequirement { at_least: wanted, deadline, may_be_replica };
    if wanted > service.frontier() {
        let reached = service.wait_applied(wanted, deadline).await;
        reached.map_err(|error| behind(api, need, error))?;
    }
    if let Some(AtLeast::Token(token)) = &ask.at_least {
        check_token(api, token, need).await?;
    }
    if !may_be_replica {
        need.at_least = service.seen();
    }
    Ok(need)
}

/// Compares the token with the link it names: every reader is a witness of the chain it has seen.
async fn check_token(api: &Api, token: &Token, need: ReadRequirement) -> Result<(), ApiError> {
    let read = api.service.link(token.id(), need).await;
    let ReadResult { value: link, frontier } = read.map_err(|error| match error {
        ReadError::Changed(id) => changed(id, ErrorCode::ChainFork),
        error => behind(api, need, error),
    })?;
    let Some(link) = link else {
        return Err(behind(api, need, ReadError::Behind { frontier }));
    };
    if token.matches(link.digest) {
        return Ok(());
    }
    let Link { id, digest, .. } = link;
    tracing::error!(%token, %id, %digest, "client's token does not match this zone's chain");
    let detail =
        format!("link {id} has the digest {digest} here, which is not the token's ({token})");
    Err(ApiError::new(ErrorCode::ChainFork, detail).id(id))
}

/// As [`unreadable`], for a read that needed something.
pub(crate) fn behind(api: &Api, need: ReadRequirement, error: ReadError) -> ApiError {
    let ReadError::Behind { frontier } = error else { return unreadable(api, error) };
    let detail = format!("this zone has applied {frontier} and not yet {}", need.at_least);
    ApiError::new(ErrorCode::NotAppliedYet, detail).frontier(frontier)
}

/// The answer to a read that failed.
pub(crate) fn unreadable(api: &Api, error: ReadError) -> ApiError {
    match error {
        ReadError::Behind { frontier } => {
            let detail = format!("this zone has applied only up to {frontier}");
            ApiError::new(ErrorCode::NotAppliedYet, detail).frontier(frontier)
        }
        ReadError::NotEverywhere(zones) => {
            let detail = format!("not yet applied in {}", zones.join(", "));
            ApiError::new(ErrorCode::NotAppliedYet, detail).frontier(api.service.frontier())
        }
        ReadError::NoLeader => {
            ApiError::new(ErrorCode::NoLeader, "no leader confirmed the read in time")
        }
        ReadError::TimeLimit => {
            ApiError::new(ErrorCode::TimeLimit, "it passed before a majority confirmed the read")
        }
        ReadError::Changed(id) => changed(id, ErrorCode::ZoneHalted),
        ReadError::Unproven(why) => ApiError::new(ErrorCode::NotReady, why),
        ReadError::Halted(reason) => ApiError::new(ErrorCode::ZoneHalted, reason),
        ReadError::Database(error) => {
            api.report_database(&error);
            ApiError::new(ErrorCode::DatabaseUnavailable, "the read was not answered")
        }
    }
}

/// The answer to a read that met a link changed by hand.
fn changed(id: WriteId, code: ErrorCode) -> ApiError {
    let detail = format!(
        "link {id} of this zone does not follow from the link before it: its database was changed by hand; \
         the zone is fenced once that is confirmed"
    );
    ApiError::new(code, detail).id(id)
}

/// Appends a `wire::LinkBody` with its payload, byte for byte as it was sent.
fn write_link(api: &Api, mut link: Link, text: &mut String) {
    let payload = link.payload.take();
    text.push('{');
    of_link(link).write_members(&api.service.identity().cluster, text);
    text.push_str(",\"payload\":");
    text.push_str(payload.as_deref().unwrap_or("null"));
    text.push('}');
}
