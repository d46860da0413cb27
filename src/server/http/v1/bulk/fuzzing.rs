//! Seam of `tests/fuzz`: the lines of a bulk write, however the body is cut into frames.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use pghc_api::id::IdempotencyKey;

use super::lines::Lines;
use crate::http::body::payload_of;
use crate::http::server::limits::Limits;
use crate::http::server::memory_budget::MemoryBudget;

/// Longest line here; longer ones are tried too.
const LINE_BYTES: usize = 48;

/// Cuts a body into lines; its first byte says how it is cut into frames.
///
/// # Panics
/// If the lines are other than those of the whole body cut at its line ends.
pub fn lines(input: &[u8]) {
    let Some((&size, body)) = input.split_first() else { return };
    let limits = Limits { body_bytes: LINE_BYTES, ..Limits::default() };
    let key: IdempotencyKey = "k".parse().expect("a plain key");
    let size = usize::from(size % 64) + 1;
    let frames: Vec<_> =
        body.chunks(size).map(Bytes::copy_from_slice).map(Ok::<_, std::io::Error>).collect();
    let frames = Body::from_stream(stream::iter(frames));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without threads");
    let found = runtime.block_on(async {
        let room = MemoryBudget::new(limits.request_bytes);
        let mut lines = Lines::new(frames, Some(key.clone()), &limits, room);
        let mut found = Vec::new();
        while !lines.ended() {
            found.extend(lines.next_chunk(true).await.0);
        }
        found
    });
    let mut parts: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    // Bytes behind the last line end are a line only if there are any.
    if parts.last().is_some_and(|last| last.is_empty()) {
        parts.pop();
    }
    assert_eq!(found.len(), parts.len(), "a line out for each line in");
    for (number, (found, part)) in found.iter().zip(parts).enumerate() {
        let whole = Bytes::copy_from_slice(part);
        let wanted = (part.len() <= LINE_BYTES).then(|| payload_of(&whole).ok()).flatten();
        let found = found.as_ref().ok();
        let given = found.and_then(|write| write.key.as_ref());
        assert_eq!(found.map(|write| &write.payload), wanted.as_ref(), "line {number}");
        assert!(found.is_none() || given == Some(&key.line(number)), "the key of line {number}");
    }
}
