//! Outcomes: from validated writes to what each of them is answered.
//!
//! Invariant: once a write is ordered, no answer about it is a 4xx and every answer names its id.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use pghc_api::chain::Head;
use pghc_api::error::ErrorCode;
use pghc_api::id::WriteId;
use pghc_api::limits::TIMEOUT_MS_DEFAULT;
use pghc_runtime::telemetry::WriteEnd;
use tokio::time::Instant;

use crate::http::params::{RequestParams, Wait};
use crate::http::response::{ApiError, LinkSummary, TOKEN, json, of_link};
use crate::http::state::Api;
use crate::zone::{NewWrite, OrderResult, ReadError, ReadRequirement, ReadResult, SubmitError};

/// A write as it is answered.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) link: LinkSummary,
    /// Whether the key had been ordered before.
    pub(crate) repeated: bool,
    /// Of a write by itself: time until its outcome was known, and from there on.
    pub(crate) spent: Option<(Duration, Duration)>,
}

impl Written {
    pub(crate) fn status(&self) -> StatusCode {
        if self.repeated { StatusCode::OK } else { StatusCode::CREATED }
    }
}

/// The answer to one write: body, frontier and token.
pub(crate) fn written_answer(
    api: &Api,
    written: &Written,
    status: StatusCode,
    body: String,
) -> Response {
    let token = written.link.token(&api.service.identity().cluster).to_string();
    let mut response = json(status, body.into_bytes(), api.service.frontier());
    let token = HeaderValue::try_from(token).expect("a token is visible ASCII");
    response.headers_mut().insert(TOKEN, token);
    response
}

/// Writes one write and waits as asked.
pub(crate) async fn write_one(
    api: &Api,
    write: NewWrite,
    ask: &RequestParams,
) -> Result<Written, ApiError> {
    let started = Instant::now();
    let deadline = started + ask.timeout;
    let outcomes = submit(api, vec![write], deadline).await.map_err(|error| unwritten(&error))?;
    let ordered = Instant::now();
    let mut answers = settle(api, outcomes, ask.wait, deadline).await;
    let written = answers.pop().expect("one write has one outcome")?;
    Ok(Written { spent: Some((ordered - started, ordered.elapsed())), ..written })
}

/// Hands writes over and counts what became of them.
pub(crate) async fn submit(
    api: &Api,
    writes: Vec<NewWrite>,
    deadline: Instant,
) -> Result<Vec<OrderResult>, SubmitError> {
    if api.shutdown.is_cancelled() {
        return Err(SubmitError::Draining);
    }
    let count = writes.len();
    let metrics = &api.metrics.http;
    metrics.writes_submitted.inc_by(count as u64);
    let result = api.service.submit(writes, deadline).await;
    match &result {
        Ok(outcomes) => {
            assert_eq!(outcomes.len(), count, "every write has its own outcome");
            for outcome in outcomes {
                let end = match outcome {
                    OrderResult::Ordered(_) => WriteEnd::Ordered,
                    OrderResult::Repeated(_) => WriteEnd::Repeated,
                    OrderResult::KeyReused(_) => WriteEnd::KeyReused,
                };
                metrics.ended(end, 1);
            }
        }
        Err(error) => {
            let end = match error {
                SubmitError::Overloaded => WriteEnd::Overloaded,
                SubmitError::Draining => WriteEnd::Draining,
                SubmitError::Halted(_) => WriteEnd::Halted,
                SubmitError::Refused(_) => WriteEnd::NotReady,
                SubmitError::NoLeader => WriteEnd::NoLeader,
                SubmitError::NoSpace => WriteEnd::NoSpace,
                SubmitError::TimeLimit => WriteEnd::TimeLimit,
                SubmitError::Unknown => WriteEnd::Unknown,
            };
            metrics.ended(end, count);
        }
    }
    result
}

/// Waits as asked and answers each outcome, in order.
pub(crate) async fn settle(
    api: &Api,
    outcomes: Vec<OrderResult>,
    wait: Wait,
    deadline: Instant,
) -> Vec<Result<Written, ApiError>> {
    let newest = outcomes.iter().filter_map(|outcome| awaited(outcome, wait)).max();
    let waited = match newest {
        Some(id) => wait_for(api, id, wait, deadline).await,
        None => Ok(()),
    };
    let until = Instant::now() + Duration::from_millis(TIMEOUT_MS_DEFAULT);
    let mut answers = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        answers.push(match outcome {
            OrderResult::Ordered(head) => check(&waited, awaited(&outcome, wait))
                .map(|()| Written { link: of_head(api, &head), repeated: false, spent: None }),
            OrderResult::Repeated(id) => repeated(api, id, &waited, until).await,
            OrderResult::KeyReused(id) => {
                let detail = format!("write {id} has this Idempotency-Key and another payload");
                Err(ApiError::new(ErrorCode::KeyReused, detail).id(id))
            }
        });
    }
    answers
}

/// The id whose applying an outcome's answer waits for.
fn awaited(outcome: &OrderResult, wait: Wait) -> Option<WriteId> {
    match outcome {
        OrderResult::Ordered(head) => Some(head.id).filter(|_| wait != Wait::Ordered),
        // Its chain values stand in the zone only.
        OrderResult::Repeated(id) => Some(*id),
        OrderResult::KeyReused(_) => None,
    }
}

/// How a wait for several ids ended short: what is up to `applied` is as asked all the same.
struct Short {
    applied: u64,
    why: String,
}

async fn wait_for(api: &Api, id: WriteId, wait: Wait, deadline: Instant) -> Result<(), Short> {
    let short = |error: ReadError| {
        let applied = api.service.frontier();
        let (applied, why) = match error {
            ReadError::Behind { frontier } => (applied.max(frontier), "of the time limit".into()),
            ReadError::NotEverywhere(zones) => (0, format!("zone {} is behind", zones.join(", "))),
            ReadError::NoLeader => (0, "no leader said how far the zones are".to_owned()),
            ReadError::Unproven(why) => (0, why),
            ReadError::Changed(id) => (0, format!("link {id} here was changed by hand")),
            ReadError::TimeLimit => (applied, "of the time limit".to_owned()),
            ReadError::Halted(reason) => (applied, format!("this zone is halted: {reason}")),
            ReadError::Database(error) => {
                api.report_database(&error);
                (applied, "this zone's PostgreSQL does not answer".to_owned())
            }
        };
        Short { applied, why }
    };
    api.service.wait_applied(id.get(), deadline).await.map_err(short)?;
    if wait == Wait::Everywhere {
        api.service.wait_everywhere(id.get(), deadline).await.map_err(short)?;
    }
    Ok(())
}

fn check(waited: &Result<(), Short>, awaited: Option<WriteId>) -> Result<(), ApiError> {
    match (waited, awaited) {
        (Err(short), Some(id)) if id.get() > short.applied => Err(not_applied(id, &short.why)),
        _ => Ok(()),
    }
}

async fn repeated(
    api: &Api,
    id: WriteId,
    waited: &Result<(), Short>,
    deadline: Instant,
) -> Result<Written, ApiError> {
    check(waited, Some(id))?;
    let need = ReadRequirement { at_least: 0, deadline, may_be_replica: false };
    match api.service.link(id, need).await {
        Ok(ReadResult { value: Some(link), .. }) => {
            Ok(Written { link: of_link(link), repeated: true, spent: None })
        }
        Ok(_) => Err(not_applied(id, "this zone does not show it yet")),
        Err(error) => {
            if let ReadError::Database(error) = &error {
                api.report_database(error);
            }
            Err(not_applied(id, "this zone could not be read"))
        }
    }
}

fn not_applied(id: WriteId, why: &str) -> ApiError {
    let detail = format!("write {id} is committed and will be applied, but not in time: {why}");
    ApiError::new(ErrorCode::CommittedNotApplied, detail).id(id)
}

/// The answer to a write without a result.
pub(crate) fn unwritten(error: &SubmitError) -> ApiError {
    let (code, detail) = match error {
        SubmitError::Halted(why) => {
            return ApiError::new(ErrorCode::ZoneHalted, format!("nothing was handed over: {why}"));
        }
        SubmitError::Refused(why) => {
            return ApiError::new(ErrorCode::NotReady, format!("nothing was handed over: {why}"));
        }
        SubmitError::Overloaded => (ErrorCode::Overloaded, "the queue of this node is full"),
        SubmitError::Draining => (ErrorCode::Draining, "nothing was handed over"),
        SubmitError::NoSpace => {
            (ErrorCode::NoSpace, "nothing was handed over; an operator must free space there")
        }
        SubmitError::NoLeader => {
            (ErrorCode::NoLeader, "no coordinator with a leader was reachable in time")
        }
        SubmitError::TimeLimit => {
            (ErrorCode::TimeLimit, "it passed before the write was handed over; ask for more time")
        }
        SubmitError::Unknown => (
            ErrorCode::OutcomeUnknown,
            "the write may have been handed over and no answer came in time",
        ),
    };
    ApiError::new(code, detail)
}

fn of_head(api: &Api, head: &Head) -> LinkSummary {
    let node = api.service.identity().node.clone();
    LinkSummary {
        id: head.id,
        node,
        hash: head.hash,
        digest: head.digest,
        written_at: head.written_at,
    }
}
