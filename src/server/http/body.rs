//! Reading request bodies: bounded in bytes, each and all together, and in time; checked, and without
//! copying.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use pghc_api::error::ErrorCode;
use pghc_api::payload;
use tokio::time::{Instant, timeout_at};

use super::response::ApiError;
use super::server::limits::Limits;
use super::server::memory_budget::{MemoryBudget, Share};

/// Declared media type of a write's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// One write.
    Json,
    /// One write a line.
    Ndjson,
}

/// Reads the content type of a write. None at all means JSON.
pub(crate) fn media(headers: &HeaderMap) -> Result<Media, ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Media::Json) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(Media::Json)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Ok(Media::Ndjson)
    } else {
        let detail = "the content type of a write is application/json or application/x-ndjson";
        Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail))
    }
}

/// Refuses a content type that a page of any origin may send without being asked, for a path that reads
/// no body. None at all is fine, and so is one of ours.
pub(crate) fn refuse_form(headers: &HeaderMap) -> Result<(), ApiError> {
    const FORMS: [&str; 3] =
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if FORMS.iter().any(|form| essence.eq_ignore_ascii_case(form)) {
        let detail = "this path takes no form and no plain text: send no body and no content type";
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail));
    }
    Ok(())
}

/// Reads a whole body of at most `limits.body_bytes`, declared or not, with its share of the node's room:
/// what is declared is counted before anything is read, anything else as it comes.
pub(crate) async fn read_whole(
    mut body: Body,
    limits: &Limits,
    room: &MemoryBudget,
) -> Result<(Bytes, Share), ApiError> {
    let max = limits.body_bytes;
    let declared = body.size_hint().lower();
    if declared > max as u64 {
        return Err(too_large("body", max));
    }
    let declared = usize::try_from(declared).unwrap_or(max);
    let mut share = room.body(declared)?;
    let deadline = Instant::now() + limits.body_read;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while !body.is_end_stream() {
        let Ok(frame) = timeout_at(deadline, body.frame()).await else {
            let seconds = limits.body_read.as_secs_f64();
            return Err(too_late(format!("the body did not arrive within {seconds} s")));
        };
        let Some(frame) = frame else { break };
        // Trailers carry nothing for us.
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else { continue };
        if first.len() + all.len() + data.len() > max {
            return Err(too_large("body", max));
        }
        // The usual body comes in one piece and is kept as it is.
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.reserve(declared.max(first.len() + data.len()));
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
        let held = all.capacity().max(first.len());
        if held > share.bytes() && declared == 0 {
            share.add(room.body(held - share.bytes())?);
        }
    }
    Ok((if all.is_empty() { first } else { all.freeze() }, share))
}

/// The payload of a write's body; shares its memory.
pub(crate) fn payload_of(body: &Bytes) -> Result<Option<Bytes>, ApiError> {
    if body.is_empty() {
        let detail = "the body is empty; send {} for a write without a payload";
        return Err(ApiError::new(ErrorCode::BadJson, detail));
    }
    match payload::write_body(body) {
        Ok(range) => Ok(range.map(|range| body.slice(range))),
        Err(fault) => Err(ApiError::new(fault.code, format!("the body has {fault}"))),
    }
}

pub(crate) fn too_large(what: &str, max: usize) -> ApiError {
    let detail = format!("the {what} is larger than the limit of {max} bytes");
    ApiError::new(ErrorCode::PayloadTooLarge, detail)
}

pub(crate) fn too_late(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::RequestTimeout, detail)
}

pub(crate) fn broken() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the body broke off or is not framed as HTTP wants it")
}
