//! Writing to the chain: one write, or many as NDJSON.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::bulk;
use super::outcome::{write_one, written_answer};
use crate::http::body::{Media, media, payload_of, read_whole};
use crate::http::params::{RequestParams, WRITE, idempotency_key};
use crate::http::response::ApiError;
use crate::http::state::Shared;
use crate::zone::NewWrite;

/// How long the node took for what, as browsers and proxies know it.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Writes to the chain.
///
/// One write as `application/json`, answered 201, or 200 when its `Idempotency-Key` was written
/// before; or many as `application/x-ndjson`, one such object a line, answered 200 with a line for
/// each line, in order, each with its own `status`. With a key, line n has the key's n-th place.
/// Answers stream while the request is still being sent: read them while you write.
#[utoipa::path(
    post, path = "/v1/chain", operation_id = "write", tag = "chain",
    params(
        ("wait" = Option<String>, Query, description = "Answer when the write is `ordered` (its id is known and durable), `applied` in this zone (default), or applied `everywhere` (in all live zones)"),
        ("timeout" = Option<String>, Query, description = "Longest wait: `500ms`, `5s`, or a plain number of milliseconds; at most 60 s, default 10 s"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; a retry with it is the same write, in any zone"),
    ),
    request_body(content(
        (pghc_api::wire::WriteRequest = "application/json"),
        (pghc_api::wire::WriteRequest = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "Written and applied as asked", body = pghc_api::wire::LinkBody,
            headers(("Pghc-Frontier" = u64, description = "Newest id applied in this zone"), ("Pghc-Token" = String, description = "Token of the write"), ("Server-Timing" = String, description = "Milliseconds until the write was ordered (`order;dur=`) and from there until it was applied as asked (`apply;dur=`)"))),
        (status = 200, description = "Written before under this key; or the lines of a bulk write", body = pghc_api::wire::LinkBody),
        (status = 400, description = "Not understood; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 415, description = "Neither JSON nor NDJSON; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 422, description = "The payload cannot be stored, or the key was used for another; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many writes are waiting; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another origin; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 503, description = "No leader, no room for the body, the time limit passed before anything was handed over, or shutting down; nothing was written by this request", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 507, description = "The coordinators' disks are nearly full; nothing was written", body = pghc_api::error::Problem, content_type = "application/problem+json"),
        (status = 504, description = "Unknown, or committed under the `id` given but not yet applied as asked", body = pghc_api::error::Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn write(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let ask = RequestParams::of(&head.uri, WRITE)?;
    let key = idempotency_key(&head.headers)?;
    if media(&head.headers)? == Media::Ndjson {
        return bulk::answer(api, body, key, &ask);
    }
    let (body, share) = read_whole(body, &api.limits, &api.room).await?;
    let write = NewWrite { key, payload: payload_of(&body)? };
    // From here on the queue of writes counts the bytes, and lets go of them once they are sent.
    drop((body, share));
    let written = write_one(&api, write, &ask).await?;
    let cluster = &api.service.identity().cluster;
    let mut text = String::with_capacity(384);
    text.push('{');
    written.link.write_members(cluster, &mut text);
    text.push('}');
    let mut response = written_answer(&api, &written, written.status(), text);
    response.headers_mut().extend(written.spent.map(server_timing));
    Ok(response)
}

/// The node's own time, for clients that measure: until the outcome was known (queue, way to the leader, quorum
/// and back), and until it was applied as asked.
fn server_timing((order, apply): (Duration, Duration)) -> (HeaderName, HeaderValue) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let text = format!("order;dur={:.3}, apply;dur={:.3}", ms(order), ms(apply));
    let value = HeaderValue::try_from(text).expect("numbers are visible ASCII");
    (SERVER_TIMING, value)
}
