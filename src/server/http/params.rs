//! Parameters of a request beside its body: the query and the idempotency key.
//!
//! Everything is checked before anything is done. A parameter that is not known is refused, since
//! ignoring a misspelt `at_least` would answer stale data as if it were fresh.

use std::time::Duration;

use axum::extract::Query;
use axum::http::{HeaderMap, Uri};
use pghc_api::error::ErrorCode;
use pghc_api::id::{IdempotencyKey, WriteId};
use pghc_api::limits::{PAGE_LINKS_DEFAULT, PAGE_LINKS_MAX, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX};
use pghc_api::token::Token;

use super::response::ApiError;

/// How far a write must have come before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Wait {
    /// Its id is known and durable.
    Ordered,
    /// This zone has applied it.
    #[default]
    Applied,
    /// Every live zone has applied it.
    Everywhere,
}

/// The position that a read requires to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AtLeast {
    Id(WriteId),
    Token(Token),
}

impl AtLeast {
    pub(crate) fn id(&self) -> WriteId {
        match self {
            Self::Id(id) => *id,
            Self::Token(token) => token.id(),
        }
    }
}

/// Parameters of a request; what was not given has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestParams {
    pub(crate) wait: Wait,
    pub(crate) timeout: Duration,
    pub(crate) at_least: Option<AtLeast>,
    pub(crate) linearizable: bool,
    pub(crate) after: u64,
    pub(crate) limit: usize,
}

/// Parameters of writes.
pub(crate) const WRITE: &[&str] = &["wait", "timeout"];
/// Parameters of reads.
pub(crate) const READ: &[&str] = &["at_least", "linearizable", "timeout"];
/// Parameters of page reads.
pub(crate) const PAGE: &[&str] = &["at_least", "linearizable", "timeout", "after", "limit"];

impl Default for RequestParams {
    fn default() -> Self {
        Self {
            wait: Wait::default(),
            timeout: Duration::from_millis(TIMEOUT_MS_DEFAULT),
            at_least: None,
            linearizable: false,
            after: 0,
            limit: PAGE_LINKS_DEFAULT,
        }
    }
}

impl RequestParams {
    /// Reads the parameters of a v1 request; one that is not among `known` is refused.
    pub(crate) fn of(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        Self::read(uri, known, |name| {
            let known = known.join(", ");
            Err(bad(format!("the query parameter {name:?} is not known here; there are: {known}")))
        })
    }

    /// Reads the parameters of an original request, whose clients may add what they like.
    pub(crate) fn parse_lenient(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        Self::read(uri, known, |_| Ok(()))
    }

    fn read(
        uri: &Uri,
        known: &[&str],
        unknown: impl Fn(&str) -> Result<(), ApiError>,
    ) -> Result<Self, ApiError> {
        let mut ask = Self::default();
        if uri.query().is_none() {
            return Ok(ask);
        }
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| bad("the query string is not made of name=value pairs in UTF-8"))?;
        for (index, (name, value)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                unknown(name)?;
            } else if pairs[..index].iter().any(|(before, _)| before == name) {
                return Err(bad(format!("the query parameter {name} is given twice")));
            } else {
                ask.set(name, value)?;
            }
        }
        Ok(ask)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        match name {
            "wait" => self.wait = wait(value)?,
            "timeout" => self.timeout = timeout(value)?,
            "at_least" => self.at_least = Some(at_least(value)?),
            "linearizable" => {
                self.linearizable = value.parse().map_err(|_| {
                    bad(format!("linearizable is true or false, not {:?}", shorten(value)))
                })?;
            }
            "after" => {
                self.after = number(value)
                    .filter(|id| *id <= WriteId::MAX.get())
                    .ok_or_else(|| bad(format!("after is an id or 0, not {:?}", shorten(value))))?;
            }
            "limit" => {
                let limit = number(value).and_then(|limit| usize::try_from(limit).ok());
                let in_bounds = limit.filter(|limit| (1..=PAGE_LINKS_MAX).contains(limit));
                self.limit = in_bounds.ok_or_else(|| {
                    bad(format!("limit is 1 to {PAGE_LINKS_MAX}, not {:?}", shorten(value)))
                })?;
            }
            _ => unreachable!("only known parameters are set"),
        }
        Ok(())
    }
}

fn wait(value: &str) -> Result<Wait, ApiError> {
    match value {
        "ordered" => Ok(Wait::Ordered),
        "applied" => Ok(Wait::Applied),
        "everywhere" => Ok(Wait::Everywhere),
        _ => Err(bad(format!("wait is ordered, applied or everywhere, not {:?}", shorten(value)))),
    }
}

/// Reads `500ms`, `5s`, or a plain number of milliseconds.
fn timeout(value: &str) -> Result<Duration, ApiError> {
    let millis = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(millis), _) => number(millis),
        (None, Some(seconds)) => number(seconds).and_then(|seconds| seconds.checked_mul(1000)),
        (None, None) => number(value),
    };
    let in_bounds = millis.filter(|millis| (1..=TIMEOUT_MS_MAX).contains(millis));
    in_bounds.map(Duration::from_millis).ok_or_else(|| {
        let seconds = TIMEOUT_MS_MAX / 1000;
        let value = shorten(value);
        bad(format!("timeout is a time such as 500ms or 5s, from 1ms to {seconds}s, not {value:?}"))
    })
}

fn at_least(value: &str) -> Result<AtLeast, ApiError> {
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        let id = value.parse().map_err(|error| {
            bad(format!("at_least: {error}; leave it out when nothing was seen yet"))
        })?;
        return Ok(AtLeast::Id(id));
    }
    let token = value.parse().map_err(|error| {
        ApiError::new(ErrorCode::BadToken, format!("at_least is an id or a token: {error}"))
    })?;
    Ok(AtLeast::Token(token))
}

/// A number of digits alone: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

/// Shortens a client's text before it is repeated in an answer.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Reads the header `Idempotency-Key`, which is optional.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    const WANTED: &str = "the header Idempotency-Key takes 1 to 128 visible ASCII characters, once";
    let refuse = || ApiError::new(ErrorCode::BadIdempotencyKey, WANTED);
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(key) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(refuse());
    }
    let key = key.to_str().map_err(|_| refuse())?;
    key.parse().map(Some).map_err(|_| refuse())
}

/// Reads the id at the end of a path.
pub(crate) fn path_id(uri: &Uri) -> Result<WriteId, ApiError> {
    let segment = uri.path().rsplit('/').next().unwrap_or_default();
    segment.parse().map_err(|error| bad(format!("the path names no link: {error}")))
}
