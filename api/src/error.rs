//! Error codes of the HTTP API. A code says what happened to the caller's data.
//!
//! Rule of the statuses: 2xx is committed and applied as requested; 4xx is not in the log and never
//! will be; any other status is unknown or late, and the same request may be sent again with the
//! same `Idempotency-Key`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// Stable name of an error. Clients may branch on it; `title` and `detail` are for people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// Every code, in alphabetical order of its text.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as sent in the body.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// One line for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

// Keep this alphabetical by text.
codes! {
    /// `Idempotency-Key` is empty, too long, or holds other than visible ASCII.
    BadIdempotencyKey = "bad_idempotency_key", 400, "The Idempotency-Key is not usable; nothing was written";
    /// The body is not one JSON value of the expected form.
    BadJson = "bad_json", 400, "The body is not valid JSON; nothing was written";
    /// A query parameter or path segment is not what it should be.
    BadRequest = "bad_request", 400, "The request is not understood; nothing was written";
    /// The token is not one pghc has issued.
    BadToken = "bad_token", 400, "The token is malformed";
    /// The requests under way hold all the memory that there is for them.
    Busy = "busy", 503, "This node has no room for the request at the moment; nothing was written, try again after the time in Retry-After";
    /// The token's hash differs from the link's: the chain here is not the one the token is from.
    ChainFork = "chain_fork", 409, "This zone's chain is not the one the token was issued on; tell the operator";
    /// The write has its id and will be applied, but not within the time asked for.
    CommittedNotApplied = "committed_not_applied", 504, "The write is committed under the id given but not yet applied as asked; do not write it again without its Idempotency-Key";
    /// PostgreSQL of this zone does not answer.
    DatabaseUnavailable = "database_unavailable", 503, "This zone's PostgreSQL does not answer; try again here or in another zone";
    /// This node is shutting down.
    Draining = "draining", 503, "This node is shutting down; nothing was written, try another node";
    /// One object of the body has the same key twice.
    DuplicateKey = "duplicate_key", 400, "A JSON object has the same key twice; nothing was written";
    /// A browser sends the request for a page of an origin that is not allowed.
    ForeignOrigin = "foreign_origin", 403, "The request comes from a page of another origin; nothing was done";
    /// The key was used before with another payload.
    KeyReused = "key_reused", 422, "The Idempotency-Key was used before for another payload; nothing was written";
    /// The path knows other methods.
    MethodNotAllowed = "method_not_allowed", 405, "The path does not take this method";
    /// No leader answered in time; the write was not handed to one.
    NoLeader = "no_leader", 503, "No coordinator leads at the moment; send the same request again";
    /// The leader's disk is nearly full; the write was not handed over.
    NoSpace = "no_space", 507, "The coordinators' disks are nearly full; nothing was written, tell the operator and try again later";
    /// The zone did not reach the id in time.
    NotAppliedYet = "not_applied_yet", 504, "This zone has not reached the id asked for; the answer says how far it is";
    /// No such path or link.
    NotFound = "not_found", 404, "There is no such thing here";
    /// The node has just started and its zone is not back where it was.
    NotReady = "not_ready", 503, "This node cannot do all it is for at the moment; its detail says why, use another node";
    /// The write was handed over and the answer was lost or late.
    OutcomeUnknown = "outcome_unknown", 504, "It is not known whether the write was committed; send it again with the same Idempotency-Key";
    /// Too much is waiting already.
    Overloaded = "overloaded", 429, "Too many writes are waiting here; nothing was written, try again after the time in Retry-After";
    /// The body is over the limit.
    PayloadTooLarge = "payload_too_large", 413, "The body is over the limit; nothing was written";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", 408, "The request did not arrive in time; nothing was written";
    /// The time limit passed before anything was done.
    TimeLimit = "time_limit", 503, "The request's time limit passed first; nothing was written, ask for more time";
    /// The key is not one of the request's fields.
    UnknownField = "unknown_field", 400, "The body has a field pghc does not know; nothing was written";
    /// PostgreSQL could never store this value.
    UnstorablePayload = "unstorable_payload", 422, "PostgreSQL cannot store this payload; nothing was written";
    /// The body is of another type.
    UnsupportedMediaType = "unsupported_media_type", 415, "The content type is not one this path takes; nothing was written";
    /// The token is of another cluster.
    WrongCluster = "wrong_cluster", 400, "The token was issued by another cluster";
    /// The zone's applier has stopped itself because something is wrong with its data.
    ZoneHalted = "zone_halted", 503, "This zone has halted itself to protect its data; use another zone and tell the operator";
}

/// Body of every error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the code says it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line for people; the same for every error of this code.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: ErrorCode,
    /// What happened this time and what to do. Never SQL, a file path or a stack trace.
    pub detail: String,
    /// The write's id, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<u64>,
    /// Newest id this zone has applied, where it matters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub frontier: Option<u64>,
    /// Correlates the answer with the node's log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem with its code's title and status.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: detail.into(),
            id: None,
            frontier: None,
            request_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn error_codes_are_sorted_without_duplicates() {
        let texts: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert!(texts.is_sorted_by(|a, b| a < b), "{texts:?}");
    }

    #[test]
    fn error_code_has_error_status_with_its_name_as_json() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{code:?}");
            let json = serde_json::to_string(code).expect("a plain enum");
            assert_eq!(json, format!("{:?}", code.as_str()));
        }
    }
}
