//! Rules for the body of a write: strict JSON that PostgreSQL can store in every zone.
//!
//! Invariant: PostgreSQL accepts every payload accepted by [`write_body`] or [`value`], as `json`
//! and as `jsonb` in a UTF-8 database. A payload is kept byte for byte: a body is scanned once, and
//! the payload is a range of it. Pure: no I/O, no clock.
//!
//! Stricter than JSON itself: nesting is bounded, no object has the same key twice, `\u0000` and
//! lone surrogates are refused, and numbers must fit PostgreSQL's `numeric`.

mod fault;
mod number;
mod scan;
mod string;

use std::ops::Range;

use crate::error::ErrorCode;

pub use fault::Fault;
use scan::Scanner;

/// Finds the payload in the body of a write, `{"payload": <any JSON>}`.
///
/// Returns the payload's range in `body`, without surrounding white space; `None` when the field is
/// absent or `null`. The caller has bounded the length of `body`.
///
/// # Errors
/// [`Fault`]. Invalid JSON is reported before valid JSON that is not allowed; within each kind, the
/// first fault is reported.
pub fn write_body(body: &[u8]) -> Result<Option<Range<usize>>, Fault> {
    let mut scanner = Scanner::new(check_utf8(body)?);
    let payload = scanner.request()?;
    scanner.finish()?;
    Ok(payload.filter(|range| &body[range.clone()] != b"null"))
}

/// Checks that `json` is exactly one storable JSON value, white space around it allowed.
///
/// # Errors
/// [`Fault`], as [`write_body`].
pub fn value(json: &[u8]) -> Result<(), Fault> {
    let mut scanner = Scanner::new(check_utf8(json)?);
    scanner.any()?;
    scanner.finish()
}

fn check_utf8(body: &[u8]) -> Result<&[u8], Fault> {
    std::str::from_utf8(body).map(str::as_bytes).map_err(|error| Fault {
        code: ErrorCode::BadJson,
        at: error.valid_up_to(),
        what: "bytes that are not UTF-8",
    })
}

#[cfg(test)]
mod tests;
