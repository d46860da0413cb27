//! Tells every coordinator how far the zone is, and learns from each answer whether it lives, how
//! far it is, and how the cluster looks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Identity;
use super::coordinators::Coordinators;
use super::standing::Standing;
use crate::rpc::v1::{Cluster, ZoneReport};
use crate::task::Tasks;
use crate::telemetry::Metrics;

/// Least time between two reports to one coordinator.
const GAP: Duration = Duration::from_millis(25);

/// Most time between two reports.
const PERIOD: Duration = Duration::from_millis(500);

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A coordinator whose head has stood still so long while others went on is not asked.
const STALE_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct View {
    cluster: Cluster,
    /// When its head last moved.
    moved: Instant,
}

/// What the coordinators last answered, by place.
pub(super) struct Views {
    views: Mutex<Vec<Option<View>>>,
}

impl Views {
    /// The answer of the coordinator in place `place`.
    pub(super) fn of(&self, place: usize) -> Option<Cluster> {
        self.views.lock()[place].as_ref().map(|view| view.cluster.clone())
    }

    /// Newest committed id any coordinator has told of.
    pub(super) fn head(&self) -> u64 {
        let heads = self.views.lock();
        heads.iter().flatten().map(|view| view.cluster.head).max().unwrap_or_default()
    }

    /// Takes in an answer; whether the coordinator keeps up with the others.
    fn take(&self, place: usize, cluster: Cluster, now: Instant) -> bool {
        let mut views = self.views.lock();
        let newest = views.iter().flatten().map(|v| v.cluster.head).max().unwrap_or_default();
        let unmoved = |view: &&View| view.cluster.head == cluster.head;
        let moved = views[place].as_ref().filter(unmoved).map_or(now, |view| view.moved);
        let keeps_up = cluster.head >= newest || now - moved < STALE_AFTER;
        views[place] = Some(View { cluster, moved });
        keeps_up
    }
}

/// Starts reporting to every coordinator.
pub(super) fn start(
    identity: &Identity,
    standing: &Arc<Standing>,
    coordinators: &Coordinators,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Arc<Views> {
    let views = Arc::new(Views { views: Mutex::new(vec![None; coordinators.count()]) });
    for place in 0..coordinators.count() {
        let reporter = Reporter {
            place,
            identity: identity.clone(),
            standing: Arc::clone(standing),
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
    standing: Arc<Standing>,
    coordinators: Coordinators,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
}

impl Reporter {
    async fn run(self) {
        let mut frontier = self.standing.frontier.changes();
        let mut client = self.coordinators.client(self.place);
        loop {
            frontier.borrow_and_update();
            let mut request = tonic::Request::new(self.report());
            request.set_timeout(ANSWER_MAX);
            let answer = tokio::time::timeout(ANSWER_MAX, client.report(request)).await;
            let answers = match answer {
                Ok(Ok(cluster)) => {
                    self.views.take(self.place, cluster.into_inner(), Instant::now())
                }
                _ => false,
            };
            self.coordinators.note(self.place, answers);
            let lag = self.views.head().saturating_sub(self.standing.frontier.id());
            self.metrics.zone.apply_lag_ids.set(lag);
            tokio::time::sleep(GAP).await;
            let _ = tokio::time::timeout(PERIOD - GAP, frontier.changed()).await;
        }
    }

    fn report(&self) -> ZoneReport {
        ZoneReport {
            zone: self.identity.zone.to_string(),
            node: self.identity.node.to_string(),
            is_applier: self.standing.is_applier(),
            frontier: self.standing.frontier.id(),
            flushed: self.standing.flushed(),
            halted: self.standing.frontier.halted().unwrap_or_default(),
            trouble: self.standing.trouble().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::{STALE_AFTER, Views};
    use crate::rpc::v1::Cluster;

    #[test]
    fn a_coordinator_that_stands_still_while_others_go_on_does_not_keep_up() {
        let views = Views { views: Mutex::new(vec![None; 2]) };
        let at = |head| Cluster { head, ..Cluster::default() };
        let start = Instant::now();
        assert!(views.take(0, at(5), start) && views.take(1, at(5), start));
        let later = start + STALE_AFTER;
        assert!(views.take(0, at(5), later), "nobody went on");
        assert!(views.take(1, at(9), later));
        assert!(!views.take(0, at(5), later));
        assert!(views.take(0, at(6), later), "it moves again");
        assert_eq!(views.head(), 9);
    }
}
