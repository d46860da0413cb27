//! Bulk writes: NDJSON in, NDJSON out, one line for each line, in order.
//!
//! Lines are handed over in chunks as they arrive, several chunks under way at a time, and their
//! answers stream out while the request is still being read. Memory is bounded by
//! [`CHUNKS_MAX`] chunks and one line, and is taken from the room of all requests: a bulk write waits for
//! it where a single write is refused. When the client does not take its answers, reading stops: a
//! client that sends megabytes must read while it writes.

#[cfg(debug_assertions)]
pub(crate) mod fuzzing;
mod lines;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesOrdered, StreamExt as _};
use hyper::body::Body as _;
use pghc_api::id::IdempotencyKey;
use tokio::time::Instant;

use super::outcome::{Written, settle, submit, unwritten};
use crate::http::body::too_large;
use crate::http::params::{RequestParams, Wait};
use crate::http::response::{ApiError, FRONTIER};
use crate::http::state::{Api, Shared};
use crate::zone::{NewWrite, OrderResult, SubmitError};

use lines::{Line, Lines};

/// Chunks under way at a time within one request.
const CHUNKS_MAX: usize = 8;

/// Bytes of the answer to one line, about.
const ANSWER_BYTES: usize = 360;

/// First and longest pause before a chunk is offered again to a full queue. A single write is told
/// to come back; a stream is slowed down instead, until its time is over.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Answers a bulk write. The headers go out at once; what is wrong with a line is said in its line.
pub(crate) fn answer(
    api: Shared,
    body: Body,
    key: Option<IdempotencyKey>,
    ask: &RequestParams,
) -> Result<Response, ApiError> {
    let max = api.limits.bulk_bytes;
    if body.size_hint().lower() > max as u64 {
        return Err(too_large("body", max));
    }
    if api.shutdown.is_cancelled() {
        return Err(unwritten(&SubmitError::Draining));
    }
    let frontier = api.service.frontier();
    let run = Run {
        lines: Lines::new(body, key, &api.limits, Arc::clone(&api.room)),
        answers: FuturesOrdered::new(),
        wait: ask.wait,
        timeout: ask.timeout,
        api,
    };
    let answers = stream::unfold(run, |mut run| async move {
        let answer = run.next().await?;
        Some((Ok::<_, std::convert::Infallible>(answer), run))
    });
    let mut response = Response::new(Body::from_stream(answers));
    response.headers_mut().insert(CONTENT_TYPE, NDJSON);
    response.headers_mut().insert(FRONTIER, frontier.into());
    Ok(response)
}

/// One bulk write under way.
struct Run {
    api: Shared,
    lines: Lines,
    answers: FuturesOrdered<BoxFuture<'static, Bytes>>,
    wait: Wait,
    timeout: Duration,
}

impl Run {
    /// The answers of the next chunk; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let may_read = !self.lines.ended() && self.answers.len() < CHUNKS_MAX;
            let nothing_due = self.answers.is_empty();
            if !may_read && nothing_due {
                return None;
            }
            // Chunks are polled in the order they were read, and so handed over in that order.
            tokio::select! {
                biased;
                Some(answer) = self.answers.next(), if !nothing_due => {
                    self.lines.restart_silence();
                    return Some(answer);
                }
                () = self.api.shutdown.cancelled(), if self.lines.reading() => {
                    self.lines.end_with(unwritten(&SubmitError::Draining));
                }
                (chunk, share) = self.lines.next_chunk(nothing_due), if may_read => {
                    if !chunk.is_empty() {
                        let (api, wait, timeout) = (Shared::clone(&self.api), self.wait, self.timeout);
                        let answer = async move {
                            let room = api.room.answer_in_time(chunk.len() * ANSWER_BYTES).await;
                            let answer = write(api, chunk, wait, Instant::now() + timeout).await;
                            drop(share);
                            room.kept_by(answer)
                        };
                        self.answers.push_back(Box::pin(answer));
                    }
                }
            }
        }
    }
}

/// Writes the good lines of a chunk and answers all of them.
async fn write(api: Shared, chunk: Vec<Line>, wait: Wait, deadline: Instant) -> Vec<u8> {
    let mut writes = Vec::with_capacity(chunk.len());
    let mut refusals = Vec::with_capacity(chunk.len());
    for line in chunk {
        match line {
            Ok(write) => {
                writes.push(write);
                refusals.push(None);
            }
            Err(refusal) => refusals.push(Some(refusal)),
        }
    }
    let mut answers = if writes.is_empty() {
        Vec::new().into_iter()
    } else {
        match submit_patiently(&api, writes, deadline).await {
            Ok(outcomes) => settle(&api, outcomes, wait, deadline).await.into_iter(),
            Err((error, count)) => {
                (0..count).map(|_| Err(unwritten(&error))).collect::<Vec<_>>().into_iter()
            }
        }
    };
    let mut text = Vec::with_capacity(refusals.len() * ANSWER_BYTES);
    for refused in refusals {
        let answer = match refused {
            Some(refusal) => Err(refusal),
            None => answers.next().expect("every write has its own answer"),
        };
        write_line(&api, &answer, &mut text);
    }
    text
}

/// Offers the writes again while the queue is full, which means that nothing was handed over.
async fn submit_patiently(
    api: &Api,
    writes: Vec<NewWrite>,
    deadline: Instant,
) -> Result<Vec<OrderResult>, (SubmitError, usize)> {
    let count = writes.len();
    let mut pause = FIRST_PAUSE;
    loop {
        match submit(api, writes.clone(), deadline).await {
            Err(SubmitError::Overloaded) if Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            result => return result.map_err(|error| (error, count)),
        }
    }
}

fn write_line(api: &Api, answer: &Result<Written, ApiError>, text: &mut Vec<u8>) {
    match answer {
        Ok(written) => {
            let mut line = String::with_capacity(ANSWER_BYTES);
            line.push_str(if written.repeated { "{\"status\":200," } else { "{\"status\":201," });
            written.link.write_members(&api.service.identity().cluster, &mut line);
            line.push_str("}\n");
            text.extend_from_slice(line.as_bytes());
        }
        Err(refusal) => refusal.write_line(text),
    }
}
