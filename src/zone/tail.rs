//! The zone's tail: committed batches from the nearest coordinator that answers, without end.
//!
//! When that coordinator dies or falls behind, the next one goes on from the same id; when a nearer
//! one is back, the tail returns to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Identity;
use super::coordinators::{Client, Coordinators};
use super::standing::Standing;
use crate::rpc::v1::{TailBatch, TailRequest};

/// Batches received and not yet planned.
const QUEUE_BATCHES: usize = 64;

/// Pause before another attempt.
const RETRY: Duration = Duration::from_millis(50);

/// How long a coordinator is left alone whose log does not reach back far enough.
const PURGED_PAUSE: Duration = Duration::from_secs(30);

/// How often a tail looks for a nearer coordinator.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// A running tail; dropping it ends it at its next message.
pub(super) struct Tail {
    batches: mpsc::Receiver<TailBatch>,
}

impl Tail {
    /// Starts behind `after_id`. The returned future is the work; the caller spawns it.
    pub(super) fn open(
        coordinators: Coordinators,
        standing: Arc<Standing>,
        identity: &Identity,
        after_id: u64,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, batches) = mpsc::channel(QUEUE_BATCHES);
        let request = TailRequest {
            after_id,
            zone: identity.zone.to_string(),
            node: identity.node.to_string(),
        };
        (Self { batches }, run(coordinators, standing, request, sender))
    }

    /// The next batch.
    pub(super) async fn next(&mut self) -> Option<TailBatch> {
        self.batches.recv().await
    }

    /// The next batch, if it is here already.
    pub(super) fn ready(&mut self) -> Option<TailBatch> {
        self.batches.try_recv().ok()
    }
}

async fn run(
    coordinators: Coordinators,
    standing: Arc<Standing>,
    mut request: TailRequest,
    batches: mpsc::Sender<TailBatch>,
) {
    let mut purged = Purged(vec![None; coordinators.count()]);
    loop {
        let (place, client) = coordinators.nearest_but(|place| purged.is(place));
        let follow =
            Follow { coordinators: &coordinators, standing: &standing, place, purged: &purged };
        let ended = tokio::select! {
            ended = follow.run(client, &mut request, &batches) => ended,
            () = batches.closed() => return,
        };
        match ended {
            Ended::Unread => return,
            Ended::Nearer => {}
            Ended::Failed(status) if status.code() == tonic::Code::OutOfRange => {
                tracing::warn!(place, %status, "this coordinator cannot feed the zone yet");
                purged.0[place] = Some(Instant::now());
                if purged.wherever_one_answers(&coordinators) {
                    standing.feed_fails(Some(format!(
                        "no coordinator's log reaches back to id {}: this zone must be filled from \
                         another zone",
                        request.after_id + 1
                    )));
                    tokio::time::sleep(LOOK_AROUND).await;
                }
                tokio::time::sleep(RETRY).await;
            }
            Ended::Failed(status) => {
                tracing::warn!(place, %status, after_id = request.after_id, "tail ended");
                coordinators.note(place, false);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

enum Ended {
    /// Nobody reads any longer.
    Unread,
    /// Another coordinator should be followed.
    Nearer,
    /// The coordinator failed.
    Failed(tonic::Status),
}

/// When each coordinator last said that its log does not reach back far enough.
struct Purged(Vec<Option<Instant>>);

impl Purged {
    fn is(&self, place: usize) -> bool {
        self.0[place].is_some_and(|said| said.elapsed() < PURGED_PAUSE)
    }

    fn wherever_one_answers(&self, coordinators: &Coordinators) -> bool {
        // Nobody is left to ask when the nearest fit one is one that has just said so.
        self.is(coordinators.nearest_but(|place| self.is(place)).0)
    }
}

/// The tail of one coordinator.
struct Follow<'a> {
    coordinators: &'a Coordinators,
    standing: &'a Standing,
    place: usize,
    purged: &'a Purged,
}

impl Follow<'_> {
    async fn run(
        &self,
        mut client: Client,
        request: &mut TailRequest,
        batches: &mpsc::Sender<TailBatch>,
    ) -> Ended {
        let mut stream = match client.tail(request.clone()).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Ended::Failed(status),
        };
        let mut look_around = tokio::time::interval(LOOK_AROUND);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(batch)) => {
                        request.after_id = batch.last_id;
                        self.standing.feed_fails(None);
                        if batches.send(batch).await.is_err() {
                            return Ended::Unread;
                        }
                    }
                    Ok(None) => return Ended::Failed(tonic::Status::unavailable("it ended")),
                    Err(status) => return Ended::Failed(status),
                },
                _ = look_around.tick() => {
                    let fit = self.coordinators.nearest_but(|place| self.purged.is(place));
                    if fit.0 != self.place {
                        return Ended::Nearer;
                    }
                }
            }
        }
    }
}
