//! A rejected body: the fault, its position, and the error for the client.

use crate::error::ErrorCode;

/// A fault of a body and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Fault {
    /// Error code for the client: one of `bad_json`, `duplicate_key`, `unknown_field` and
    /// `unstorable_payload`.
    pub code: ErrorCode,
    /// Offset into the body in bytes, from 0.
    pub at: usize,
    /// Description of the fault.
    pub what: &'static str,
}
