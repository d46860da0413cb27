//! A batch in flight: sent to the nearest coordinator, and sent again until it is answered or its clients give up.
//!
//! A batch keeps its session and sequence number however often it is sent, so the sequencer orders it once.

use std::time::Duration;

use bytes::Bytes;
use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_api::id::{WriteId, ZoneName};
use pghc_api::time::Micros;
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::v1::order_result::Kind;
use pghc_runtime::rpc::v1::{self, SubmitReply, SubmitRequest};
use pghc_runtime::rpc::{NOT_PROPOSED, is_connection_refused};
use tokio::time::{Instant, timeout_at};

use super::pending::PendingRequest;
use crate::sequencer::Batch;
use crate::zone::coordinators::Coordinators;
use crate::zone::{OrderResult, SubmitError};

/// Pause before a batch is sent again.
const RETRY: Duration = Duration::from_millis(20);

/// Least time left for another attempt: a shorter one would hardly end before the deadline, and "nothing was handed
/// over" could no longer be said.
const RESEND_MIN: Duration = Duration::from_millis(50);

/// Least time left for the first attempt.
const FIRST_MIN: Duration = Duration::from_millis(1);

/// A batch and the requests whose writes it holds.
pub(super) struct InFlightBatch {
    bytes: Bytes,
    requests: Vec<PendingRequest>,
    /// Writes of each request, in the order of the batch.
    sizes: Vec<usize>,
}

/// How sending a batch ended.
pub(super) struct BatchReply {
    /// Requests, or parts of them, that were in the batch.
    pub(super) requests: usize,
    pub(super) end: BatchEnd,
}

/// See [`BatchReply`].
pub(super) enum BatchEnd {
    /// The first attempt was answered after this time.
    Ordered(Duration),
    /// A later attempt was answered, perhaps from a reply cache, so its time is no round trip.
    OrderedByResend,
    /// The requests were answered with an error.
    Failed,
}

/// The knowledge about a batch after the attempts so far.
#[derive(Default)]
struct Attempts {
    /// An attempt may have appended the batch to the log.
    may_be_appended: bool,
    /// The last leader refused the batch for lack of disk space.
    has_no_space: bool,
    /// A coordinator refused the batch.
    was_refused: bool,
    /// The first attempt was made.
    is_resend: bool,
}

/// Result of one attempt.
enum Step {
    Ordered(SubmitReply),
    /// A refusal that another attempt would meet again.
    Refused,
    SendAgain,
}

impl InFlightBatch {
    /// Encodes a batch whose writes are those of `requests`, in their order.
    pub(super) fn new(batch: &Batch, requests: Vec<PendingRequest>, sizes: Vec<usize>) -> Self {
        Self { bytes: batch.encode(), requests, sizes }
    }

    /// Number of writes.
    pub(super) fn writes(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// Sends the batch until it is answered or the last of its requests is past its deadline.
    pub(super) async fn send(mut self, coordinators: Coordinators, zone: ZoneName) -> BatchReply {
        let requests = self.requests.len();
        let deadline = self.requests.iter().map(|request| request.deadline).max();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let mut attempts = Attempts::default();
        let end = loop {
            let started = Instant::now();
            if deadline.saturating_duration_since(started) < attempts.least_time() {
                self.fail(&attempts.error());
                break BatchEnd::Failed;
            }
            if attempts.may_be_appended && mutation::is_active(Mutant::ResendAsNew) {
                self.renumber();
            }
            let step = self.attempt(&coordinators, &zone, deadline, &mut attempts).await;
            match step {
                Step::Ordered(reply) => {
                    self.answer(&reply);
                    break match attempts.may_be_appended {
                        false => BatchEnd::Ordered(started.elapsed()),
                        true => BatchEnd::OrderedByResend,
                    };
                }
                Step::Refused => {
                    self.fail(&SubmitError::Unknown);
                    break BatchEnd::Failed;
                }
                Step::SendAgain => attempts.is_resend = true,
            }
        };
        BatchReply { requests, end }
    }

    /// Sends the batch once, and pauses after a refusal.
    async fn attempt(
        &self,
        coordinators: &Coordinators,
        zone: &ZoneName,
        deadline: Instant,
        attempts: &mut Attempts,
    ) -> Step {
        let left = deadline.saturating_duration_since(Instant::now());
        let (place, mut client) = coordinators.nearest();
        let mut request = tonic::Request::new(SubmitRequest {
            batch: self.bytes.clone(),
            max_wait_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            zone: zone.to_string(),
        });
        request.set_timeout(left);
        match timeout_at(deadline, client.submit(request)).await {
            Ok(Ok(reply)) => {
                coordinators.note(place, true);
                Step::Ordered(reply.into_inner())
            }
            Ok(Err(status)) if is_permanent(&status) => {
                tracing::error!(%status, "batch refused by a coordinator");
                Step::Refused
            }
            Ok(Err(status)) => {
                attempts.note_refusal(&status);
                coordinators.note(place, false);
                tokio::time::sleep(RETRY).await;
                Step::SendAgain
            }
            Err(_) => {
                attempts.may_be_appended = true;
                Step::SendAgain
            }
        }
    }

    /// Makes another batch of it ([`Mutant::ResendAsNew`]).
    fn renumber(&mut self) {
        if let Ok(mut batch) = Batch::decode(self.bytes.clone()) {
            batch.session[0] = batch.session[0].wrapping_add(1);
            self.bytes = batch.encode();
        }
    }

    fn fail(&mut self, error: &SubmitError) {
        for request in self.requests.drain(..) {
            let _ = request.answer.send(Err(error.clone()));
        }
    }

    fn answer(&mut self, reply: &SubmitReply) {
        let expected = self.writes();
        let results: Option<Vec<OrderResult>> = reply.outcomes.iter().map(result_of).collect();
        let Some(results) = results.filter(|results| results.len() == expected) else {
            tracing::error!(expected, "submit reply does not fit its batch");
            return self.fail(&SubmitError::Unknown);
        };
        let mut results = results.into_iter();
        for (request, size) in self.requests.drain(..).zip(&self.sizes) {
            let _ = request.answer.send(Ok(results.by_ref().take(*size).collect()));
        }
    }
}

impl Attempts {
    /// Least time left for the next attempt.
    fn least_time(&self) -> Duration {
        if self.is_resend { RESEND_MIN } else { FIRST_MIN }
    }

    fn note_refusal(&mut self, status: &tonic::Status) {
        let is_not_appended = status.metadata().contains_key(NOT_PROPOSED);
        self.was_refused = true;
        self.has_no_space = is_not_appended && status.code() == tonic::Code::ResourceExhausted;
        self.may_be_appended |= !is_not_appended && !is_connection_refused(status);
    }

    /// The answer to requests that are past their deadline. "Nothing was handed over" holds only if no attempt may
    /// have appended the batch.
    fn error(&self) -> SubmitError {
        if self.may_be_appended {
            SubmitError::Unknown
        } else if self.has_no_space {
            SubmitError::NoSpace
        } else if self.was_refused {
            SubmitError::NoLeader
        } else {
            SubmitError::TimeLimit
        }
    }
}

/// Whether another attempt would be refused, too.
fn is_permanent(status: &tonic::Status) -> bool {
    use tonic::Code::{Aborted, FailedPrecondition, InvalidArgument, Unimplemented};
    matches!(status.code(), InvalidArgument | FailedPrecondition | Unimplemented | Aborted)
}

/// `None` for a result that no coordinator sends.
fn result_of(result: &v1::OrderResult) -> Option<OrderResult> {
    let id = WriteId::try_from(result.id).ok()?;
    Some(match result.kind() {
        Kind::Ordered => OrderResult::Ordered(Head {
            id,
            hash: LinkHash(result.hash[..].try_into().ok()?),
            digest: Digest(result.digest[..].try_into().ok()?),
            written_at: Micros(result.written_at),
        }),
        Kind::Repeated => OrderResult::Repeated(id),
        Kind::KeyReused => OrderResult::KeyReused(id),
    })
}

#[cfg(test)]
mod tests {
    use super::{Attempts, NOT_PROPOSED, SubmitError};

    fn refusal(is_not_appended: bool, code: tonic::Code) -> tonic::Status {
        let mut status = tonic::Status::new(code, "refused");
        if is_not_appended {
            let yes = tonic::metadata::MetadataValue::from_static("1");
            status.metadata_mut().insert(NOT_PROPOSED, yes);
        }
        status
    }

    #[test]
    fn error_says_nothing_was_written_only_if_it_is_known() {
        use tonic::Code::{Internal, ResourceExhausted, Unavailable};
        let after = |refusals: &[(bool, tonic::Code)]| {
            let mut attempts = Attempts::default();
            for (is_not_appended, code) in refusals {
                attempts.note_refusal(&refusal(*is_not_appended, *code));
            }
            attempts.error()
        };
        assert_eq!(after(&[]), SubmitError::TimeLimit);
        assert_eq!(after(&[(true, Unavailable)]), SubmitError::NoLeader);
        assert_eq!(after(&[(true, ResourceExhausted)]), SubmitError::NoSpace);
        assert_eq!(after(&[(true, ResourceExhausted), (true, Unavailable)]), SubmitError::NoLeader);
        assert_eq!(after(&[(false, Internal), (true, Unavailable)]), SubmitError::Unknown);
    }
}
