//! Tells every coordinator how far the zone is, and learns from each answer whether it lives, how
//! far it is, and how the cluster looks.

use std::sync::Arc;
use std::time::Duration;

use pghc_runtime::rpc::v1::ZoneReport;
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use tokio::time::Instant;

use super::views::{ANSWER_MAX, Views};
use crate::sequencer::SessionId;
use crate::zone::Identity;
use crate::zone::coordinators::Coordinators;
use crate::zone::node_state::NodeState;

/// Least time between two reports to one coordinator: while a client of it waits for zones, and
/// otherwise. A report costs about as much as a batch of writes.
const GAP_AWAITED: Duration = Duration::from_millis(25);
const GAP: Duration = Duration::from_millis(100);

/// Most time between two reports when nothing changes: less than the second after which a silent connection
/// is pinged, which a report makes needless.
const PERIOD: Duration = Duration::from_millis(900);

/// Starts reporting to every coordinator.
pub(crate) fn start(
    (identity, session): (&Identity, SessionId),
    node_state: &Arc<NodeState>,
    coordinators: &Coordinators,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Arc<Views> {
    let views = Arc::new(Views::new(coordinators.count()));
    for place in 0..coordinators.count() {
        let reporter = Reporter {
            place,
            identity: identity.clone(),
            session,
            node_state: Arc::clone(node_state),
            coordinators: coordinators.clone(),
            views: Arc::clone(&views),
            metrics: Arc::clone(metrics),
        };
        tasks.spawn("report", reporter.run());
    }
    views
}

struct Reporter {
    place: usize,
    identity: Identity,
    session: SessionId,
    node_state: Arc<NodeState>,
    coordinators: Coordinators,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
}

impl Reporter {
    async fn run(self) {
        let mut frontier = self.node_state.frontier.changes();
        let mut halted = self.node_state.frontier.halts();
        let mut client = self.coordinators.client(self.place);
        loop {
            frontier.borrow_and_update();
            halted.borrow_and_update();
            let mut request = tonic::Request::new(self.report());
            request.set_timeout(ANSWER_MAX);
            let answer = tokio::time::timeout(ANSWER_MAX, client.report(request)).await;
            let mut gap = GAP;
            let answers = match answer {
                Ok(Err(status)) if is_refusal(&status) => {
                    self.node_state.report_answered(self.place, Some(Err(status.message())));
                    true
                }
                Ok(Ok(cluster)) => {
                    let cluster = cluster.into_inner();
                    if cluster.has_waiters {
                        gap = GAP_AWAITED;
                    }
                    self.node_state.report_answered(self.place, Some(Ok(())));
                    self.views.take(self.place, cluster, Instant::now())
                }
                _ => {
                    self.node_state.report_answered(self.place, None);
                    false
                }
            };
            self.coordinators.note(self.place, answers);
            let lag = self.views.head().saturating_sub(self.node_state.frontier.id());
            self.metrics.zone.apply_lag_ids.set(lag);
            tokio::time::sleep(gap).await;
            let news = async {
                tokio::select! {
                    biased;
                    _ = frontier.changed() => {}
                    _ = halted.changed() => {}
                }
            };
            let _ = tokio::time::timeout(PERIOD - gap, news).await;
        }
    }

    fn report(&self) -> ZoneReport {
        let backfill = self.node_state.backfill();
        let degraded_reason = self.node_state.degraded_reason().or_else(|| backfill.clone());
        ZoneReport {
            zone: self.identity.zone.to_string(),
            node: self.identity.node.to_string(),
            is_applier: self.node_state.is_applier(),
            frontier: self.node_state.frontier.id(),
            flushed: self.node_state.flushed(),
            halted: self.node_state.frontier.halted().unwrap_or_default(),
            degraded_reason: degraded_reason.unwrap_or_default(),
            api_url: self.identity.api_url.clone(),
            backfilling: backfill.is_some(),
            session: self.session.to_vec().into(),
            place: self.identity.place.clone(),
        }
    }
}

/// Whether a coordinator that is well does not want this node's reports.
fn is_refusal(status: &tonic::Status) -> bool {
    use tonic::Code::{AlreadyExists, FailedPrecondition, ResourceExhausted};
    [AlreadyExists, FailedPrecondition, ResourceExhausted].contains(&status.code())
}
