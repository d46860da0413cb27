//! The clients' way in virtual time: calls of an API node's service in place of HTTP, and the exact
//! clock of the simulation in place of the pacer's thread.

use std::time::Instant as StdInstant;

use bytes::Bytes;
use futures::future::join_all;
use pghc_lab::load::{Failure, WriteResult};
use pghc_lab::pacer::{Lane, Paced};
use pghc_lab::transport::{Ask, Reply, Transport};
use pghc_sim::{Answer, Deployment, clock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests to the nodes of a simulated deployment.
pub(super) struct Calls {
    pub(super) deployment: Deployment,
    /// API nodes of each zone.
    pub(super) nodes: usize,
}

impl Transport for Calls {
    type Request = pghc_sim::Ask;

    fn nodes(&self, _: usize) -> usize {
        self.nodes
    }

    fn prepare(&self, _: usize, _: usize, ask: Ask) -> pghc_sim::Ask {
        match ask {
            Ask::Write { key, payload } => {
                pghc_sim::Ask::Write { key, payload: Bytes::from(payload) }
            }
            Ask::Read { id, at_least } => pghc_sim::Ask::Read { id, at_least },
            Ask::Newest => pghc_sim::Ask::Newest,
        }
    }

    async fn exchange(
        &self,
        zone: usize,
        node: usize,
        request: &pghc_sim::Ask,
        deadline: Instant,
    ) -> Reply {
        let failed = |result, kind| Err(Failure { result, kind });
        let (outcome, timing) =
            match self.deployment.ask(zone, node, request.clone(), deadline).await {
                Answer::Written { id, order, apply } => {
                    let [order, apply] = [order, apply].map(|spent| spent.as_secs_f64() * 1e3);
                    (Ok(id), Some(format!("order;dur={order}, apply;dur={apply}")))
                }
                Answer::Read(frontier) => (Ok(frontier), None),
                Answer::Refused(kind) => (failed(WriteResult::Refused, kind), None),
                Answer::Failed(kind) => (failed(WriteResult::Unknown, kind), None),
            };
        Reply { outcome, timing, was_stale: false }
    }

    async fn pace(
        &self,
        start: StdInstant,
        lanes: Vec<Lane>,
        stop: &CancellationToken,
    ) -> Vec<Paced> {
        let pacing = lanes.into_iter().map(async |mut lane| {
            while let Some(planned) = lane.next_time() {
                self.sleep_until((start + planned).into()).await;
                if stop.is_cancelled() {
                    break;
                }
                lane.call(start + planned);
            }
            lane.end()
        });
        join_all(pacing).await
    }

    async fn sleep_until(&self, at: Instant) {
        clock::sleep_until(at).await;
    }
}
