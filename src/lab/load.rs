//! Result of a write, from its client's view.

use serde::Deserialize;

/// Result of one write, from its client's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// Never sent: the backlog was full.
    Dropped,
    /// Answered with this id.
    Written(u64),
    /// Answered that it is not written, or never handed over.
    Refused,
    /// No answer, or one that does not say.
    Unknown,
}

/// Fields of a payload that identify its write.
#[derive(Debug, Deserialize)]
pub(super) struct WriteTag {
    pub(super) run: String,
    pub(super) zone: String,
    pub(super) n: u64,
}

/// Why a write was not acknowledged.
pub struct Failure {
    /// Result of the write, as far as it is known.
    pub result: WriteResult,
    /// Kind of the failure, as reports group them.
    pub kind: String,
}

/// Classifies a response: 2xx is written, 4xx is refused, any other status leaves the result
/// unknown.
pub(super) fn classify(status: u16, body: &[u8]) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Written {
        id: u64,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    if matches!(status, 200 | 201)
        && let Ok(Written { id }) = serde_json::from_slice(body)
    {
        return Ok(id);
    }
    let code = serde_json::from_slice::<Problem>(body).map(|problem| problem.code);
    let code = code.unwrap_or_else(|_| "not an answer of pghc".to_owned());
    let result =
        if (400..500).contains(&status) { WriteResult::Refused } else { WriteResult::Unknown };
    Err(Failure { result, kind: format!("{status} {code}") })
}
