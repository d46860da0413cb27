//! The queue between requests and batches: takes all writes of a request or none.

use std::sync::Arc;

use pghc_api::id::{NodeName, ZoneName};
use pghc_api::limits::SUBMIT_QUEUE_MAX;
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::pending::{PendingRequest, QueuePermit, split, weight};
use super::task::SubmitTask;
use crate::sequencer::{SessionId, Write};
use crate::zone::coordinators::Coordinators;
use crate::zone::{NewWrite, OrderResult, SubmitError};

/// The node's way to the log. Clones are the same queue.
#[derive(Clone)]
pub(crate) struct Submitter {
    queue: mpsc::Sender<PendingRequest>,
    metrics: Arc<Metrics>,
}

impl Submitter {
    /// Starts the node's session.
    pub(crate) fn start(
        session: SessionId,
        (zone, node): (ZoneName, NodeName),
        coordinators: Coordinators,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> Self {
        let (queue, requests) = mpsc::channel(SUBMIT_QUEUE_MAX);
        let task = SubmitTask::new(session, (zone, node), coordinators, Arc::clone(&metrics));
        tasks.spawn("submit", task.run(requests));
        Self { queue, metrics }
    }

    /// Has `writes` ordered; see [`crate::zone::Service::submit`].
    pub(crate) async fn submit(
        &self,
        writes: Vec<NewWrite>,
        deadline: Instant,
    ) -> Result<Vec<OrderResult>, SubmitError> {
        // Room for all of them or for none: a full queue refuses the request as a whole.
        let permit = |writes: Vec<Write>| {
            let bytes = writes.iter().map(weight).sum();
            Ok((QueuePermit::take(&self.metrics, writes.len(), bytes)?, writes, bytes))
        };
        let parts: Vec<_> = split(writes).into_iter().map(permit).collect::<Result<_, _>>()?;
        let slots = self.queue.try_reserve_many(parts.len()).map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(()) => SubmitError::Draining,
        })?;
        let mut waits = Vec::with_capacity(parts.len());
        for (slot, (permit, writes, bytes)) in slots.zip(parts) {
            let (answer, wait) = oneshot::channel();
            slot.send(PendingRequest { writes, bytes, deadline, answer, _permit: permit });
            waits.push(wait);
        }
        let mut answers = Vec::with_capacity(waits.len());
        for wait in waits {
            let answer = timeout_at(deadline, wait).await.ok().and_then(Result::ok);
            answers.push(answer.unwrap_or(Err(SubmitError::Unknown)));
        }
        together(answers)
    }
}

/// The answer to a request from those to its parts. "Nothing was written" is said only if it holds for every
/// part.
fn together(
    answers: Vec<Result<Vec<OrderResult>, SubmitError>>,
) -> Result<Vec<OrderResult>, SubmitError> {
    let same_refusal = answers.windows(2).all(|pair| pair[0].is_err() && pair[0] == pair[1]);
    let mut results = Vec::new();
    for answer in answers {
        match answer {
            Ok(mut some) => results.append(&mut some),
            Err(error) if same_refusal => return Err(error),
            Err(_) => return Err(SubmitError::Unknown),
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;

    use super::{OrderResult, SubmitError, together};

    #[test]
    fn nothing_written_is_answered_only_if_true_of_every_part() {
        let done = || Ok(vec![OrderResult::Repeated(WriteId::FIRST)]);
        let none = || Err(SubmitError::NoLeader);
        assert_eq!(together(vec![done(), done()]).map(|all| all.len()), Ok(2));
        assert_eq!(together(vec![none()]), none());
        assert_eq!(together(vec![none(), none()]), none());
        for mixed in [vec![done(), none()], vec![none(), done()]] {
            assert_eq!(together(mixed), Err(SubmitError::Unknown));
        }
        assert_eq!(together(vec![none(), Err(SubmitError::Unknown)]), Err(SubmitError::Unknown));
    }
}
