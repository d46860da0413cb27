//! What becomes of a write, as the one who sent it knows.

use serde::Deserialize;

/// What became of one write, as its client knows it.
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

/// What the chain's payload says of a write: whose it is.
#[derive(Debug, Deserialize)]
pub(super) struct WriteTag {
    pub(super) run: String,
    pub(super) zone: String,
    pub(super) n: u64,
}

/// Why a write was not acknowledged.
pub(super) struct Failure {
    pub(super) result: WriteResult,
    pub(super) kind: String,
}

/// What an answer says of its write: 2xx is written, 4xx never will be, anything else leaves it open.
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
