//! Feeds the applier: committed batches from the nearest coordinator that answers, without
//! end, and where no log reaches back far enough, links from another zone until one does.
//!
//! When that coordinator dies or falls behind, the next one goes on from the same id; when a nearer
//! one is back, the tail returns to it. When every coordinator that answers says that this zone's
//! chain is not theirs, the tail says so and ends; that no log reaches back is believed only of a zone
//! whose chain was compared.

use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_api::id::WriteId;
use pghc_api::time::Micros;
use pghc_runtime::rpc::v1::{TailBatch, TailRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backfill::{Backfill, BackfillResult};
use super::tail_event::TailEvent;
use crate::zone::Identity;
use crate::zone::coordinators::{Client, Coordinators};
use crate::zone::node_state::NodeState;

/// Batches received and not yet planned.
const QUEUE_BATCHES: usize = 64;

/// Pause before another attempt.
const RETRY: Duration = Duration::from_millis(50);

/// How long a coordinator is left alone whose log does not reach back far enough.
const PURGED_PAUSE: Duration = Duration::from_secs(30);

/// How often a tail looks for a nearer coordinator.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// How long a coordinator's refusal of this zone's chain counts.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// A running tail; dropping it ends it at its next message.
pub(crate) struct Tail {
    fed: mpsc::Receiver<TailEvent>,
}

/// The dependencies of a tail.
pub(crate) struct TailContext {
    pub(crate) coordinators: Coordinators,
    pub(crate) node_state: Arc<NodeState>,
    pub(crate) identity: Identity,
    pub(crate) backfill: Backfill,
}

impl Tail {
    /// Starts behind `head`. The returned future is the work; the caller spawns it.
    pub(crate) fn open(
        feed: TailContext,
        head: Option<Head>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, fed) = mpsc::channel(QUEUE_BATCHES);
        (Self { fed }, run(feed, head, sender))
    }

    /// Returns the next event; `None` behind a refusal.
    pub(crate) async fn next(&mut self) -> Option<TailEvent> {
        self.fed.recv().await
    }

    /// Returns the next event if it is here already.
    pub(crate) fn ready(&mut self) -> Option<TailEvent> {
        self.fed.try_recv().ok()
    }
}

async fn run(mut feed: TailContext, mut head: Option<Head>, out: mpsc::Sender<TailEvent>) {
    let count = feed.coordinators.count();
    let (mut purged, mut refused) =
        (Cooldowns::new(count, PURGED_PAUSE), Cooldowns::new(count, REFUSED_PAUSE));
    loop {
        let unfit = |place: usize| purged.is(place) || refused.is(place);
        let (place, client) = feed.coordinators.nearest_but(unfit);
        let follow = TailSession { feed: &feed, place, unfit: &unfit };
        let ended = tokio::select! {
            biased;
            () = out.closed() => return,
            ended = follow.run(client, &mut head, &out) => ended,
        };
        match ended {
            SessionEnd::Unread => return,
            SessionEnd::Nearer => {}
            SessionEnd::Failed(status) if status.code() == tonic::Code::OutOfRange => {
                tracing::debug!(place, %status, "coordinator's log does not reach back");
                purged.say(place);
                if another_coordinator_fits(&feed.coordinators, &purged, &refused) {
                    continue;
                }
                match feed.backfill.run_once(&mut head, &out).await {
                    BackfillResult::Unread => return,
                    BackfillResult::GotOn => {
                        feed.node_state.feed_fails(None);
                        purged.forget();
                    }
                    BackfillResult::Refused(why) => {
                        let _ = out.send(TailEvent::Refused(why)).await;
                        return;
                    }
                    BackfillResult::Stuck(why) => {
                        let id = head.map_or(1, |head| head.id.get() + 1);
                        feed.node_state.feed_fails(Some(format!(
                            "no coordinator's log reaches back to id {id}, and this zone cannot \
                             be filled from another one: {why}; trying again"
                        )));
                        tokio::time::sleep(LOOK_AROUND).await;
                        purged.forget();
                    }
                }
            }
            SessionEnd::Refused(status) => {
                tracing::warn!(place, %status, "coordinator refused the zone's chain");
                refused.say(place);
                if !another_coordinator_fits(&feed.coordinators, &purged, &refused) {
                    let _ = out.send(TailEvent::Refused(status.message().to_owned())).await;
                    return;
                }
            }
            SessionEnd::Failed(status) => {
                let after_id = head.map_or(0, |head| head.id.get());
                tracing::warn!(place, %status, after_id, "tail ended");
                feed.coordinators.note(place, false);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

enum SessionEnd {
    /// The applier has dropped the tail.
    Unread,
    /// Another coordinator should be followed.
    Nearer,
    /// The coordinator has another chain, or less of it.
    Refused(tonic::Status),
    /// The coordinator failed.
    Failed(tonic::Status),
}

/// Which coordinators have said something that counts for a while.
struct Cooldowns {
    at: Vec<Option<Instant>>,
    counts_for: Duration,
}

impl Cooldowns {
    fn new(count: usize, counts_for: Duration) -> Self {
        Self { at: vec![None; count], counts_for }
    }

    fn say(&mut self, place: usize) {
        self.at[place] = Some(Instant::now());
    }

    fn forget(&mut self) {
        self.at.fill(None);
    }

    fn is(&self, place: usize) -> bool {
        self.at[place].is_some_and(|said| said.elapsed() < self.counts_for)
    }
}

/// Whether a coordinator answers that has neither purged what is needed nor refused the chain.
fn another_coordinator_fits(
    coordinators: &Coordinators,
    purged: &Cooldowns,
    refused: &Cooldowns,
) -> bool {
    let unfit = |place: usize| purged.is(place) || refused.is(place);
    // No coordinator is left to ask when the nearest fit one has just refused.
    !unfit(coordinators.nearest_but(unfit).0)
}

/// The tail of one coordinator.
struct TailSession<'a> {
    feed: &'a TailContext,
    place: usize,
    /// Coordinators not to be gone to.
    unfit: &'a (dyn Fn(usize) -> bool + Sync),
}

impl TailSession<'_> {
    async fn run(
        &self,
        mut client: Client,
        head: &mut Option<Head>,
        out: &mpsc::Sender<TailEvent>,
    ) -> SessionEnd {
        let request = TailRequest {
            after_id: head.map_or(0, |head| head.id.get()),
            after_digest: head.map(|head| head.digest.0.to_vec()).unwrap_or_default().into(),
            zone: self.feed.identity.zone.to_string(),
            node: self.feed.identity.node.to_string(),
        };
        let mut stream = match client.tail(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) if status.code() == tonic::Code::DataLoss => {
                return SessionEnd::Refused(status);
            }
            Err(status) => return SessionEnd::Failed(status),
        };
        let mut look_around = tokio::time::interval_at(Instant::now() + LOOK_AROUND, LOOK_AROUND);
        loop {
            tokio::select! {
                biased;
                _ = look_around.tick() => {
                    // A log that did not reach back would have said so by now.
                    self.clear_failure();
                    if self.feed.coordinators.nearest_but(self.unfit).0 != self.place {
                        return SessionEnd::Nearer;
                    }
                }
                message = stream.message() => match message {
                    Ok(Some(batch)) => {
                        *head = behind(&batch).or(*head);
                        self.clear_failure();
                        if out.send(TailEvent::Batch(batch)).await.is_err() {
                            return SessionEnd::Unread;
                        }
                    }
                    Ok(None) => return SessionEnd::Failed(tonic::Status::unavailable("it ended")),
                    Err(status) => return SessionEnd::Failed(status),
                },
            }
        }
    }

    fn clear_failure(&self) {
        self.feed.node_state.feed_fails(None);
        self.feed.node_state.set_backfill(None);
    }
}

/// The head behind a batch, as the coordinator has it; `None` for a batch that is not well-formed,
/// which the plan refuses.
fn behind(batch: &TailBatch) -> Option<Head> {
    Some(Head {
        id: WriteId::try_from(batch.last_id).ok()?,
        hash: LinkHash(batch.hash[..].try_into().ok()?),
        digest: Digest(batch.digest[..].try_into().ok()?),
        written_at: Micros(batch.written_at),
    })
}
