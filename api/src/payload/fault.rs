//! What is wrong with a body, where, and what its sender is told.

use crate::error::ErrorCode;

/// What is wrong with a body and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Fault {
    /// What the caller is told: one of `bad_json`, `duplicate_key`, `unknown_field` and
    /// `unstorable_payload`.
    pub code: ErrorCode,
    /// Offset into the body in bytes, from 0.
    pub at: usize,
    /// What stands there.
    pub what: &'static str,
}
