//! Seam of `tests/fuzz`: what a client may send, as functions of bytes that panic when a property
//! is broken. In no release.

use axum::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use pghc_api::payload;
use serde_json::value::RawValue;

use super::body::{media, payload_of};
use super::params::{AtLeast, PAGE, RequestParams, WRITE, idempotency_key, path_id};

pub use super::v1::bulk::fuzzing::lines;

/// The body of one write.
///
/// # Panics
/// If what is accepted is not JSON, is not a part of the body, or is refused when it stands alone.
pub fn body(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    let Ok(Some(found)) = payload_of(&body) else { return };
    assert!(body.windows(found.len()).any(|part| part == found), "a part of the body");
    assert!(serde_json::from_slice::<&RawValue>(&found).is_ok(), "JSON for others too");
    payload::value(&found).expect("what is storable in a body is storable");
    let around = [br#"{"payload":"#, &found[..], b"}"].concat();
    let range = payload::write_body(&around).expect("a body").expect("a payload");
    assert_eq!(around[range], found[..]);
}

/// Headers of a write: the key before the first zero byte, the content type behind it.
///
/// # Panics
/// If a key is accepted that is not what the header says.
pub fn headers(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let mut map = HeaderMap::new();
    for name in ["idempotency-key", "content-type"] {
        if let Some(value) = parts.next().and_then(|value| HeaderValue::from_bytes(value).ok()) {
            map.append(name, value);
        }
    }
    let _ = media(&map);
    if let Ok(Some(key)) = idempotency_key(&map) {
        assert_eq!(map["idempotency-key"].as_bytes(), key.as_str().as_bytes());
        assert!((1..=128).contains(&key.as_str().len()));
    }
}

/// Path and query of a request.
///
/// # Panics
/// If a token that was read is not written as something that reads the same.
pub fn query(input: &[u8]) {
    let Ok(uri) = Uri::try_from(input) else { return };
    let _ = path_id(&uri);
    let _ = RequestParams::parse_lenient(&uri, WRITE);
    let Ok(ask) = RequestParams::of(&uri, PAGE) else { return };
    assert!(ask.timeout.as_secs() <= 60 && !ask.timeout.is_zero());
    assert!((1..=1_000).contains(&ask.limit));
    if let Some(AtLeast::Token(token)) = ask.at_least {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}
