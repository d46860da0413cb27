//! Moves leadership to where the writes enter, when automatic placement is on.
//!
//! Only the leader decides, by `geo::placement`, once in a window. The transfer is the one of `pghc
//! leader move`.

use openraft::async_runtime::watch::WatchReceiver as _;
use pghc_runtime::geo::placement::{
    LeaderPlacementPolicy, PlacementDecision, PlacementInput, WINDOW,
};
use tokio::time::{MissedTickBehavior, interval};

use super::service::MembersService;
use crate::coordinator::placement::topology_view::{TopologyView, topology, unfit};
use crate::coordinator::raft::handle::Raft;

/// Loop of automatic placement.
pub(crate) struct LeaderBalancer {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) topology_view: TopologyView,
    pub(crate) members: MembersService,
}

impl LeaderBalancer {
    /// Evaluates the placement once in a window until dropped.
    pub(crate) async fn run(self) {
        let mut tick = interval(WINDOW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate.
        tick.tick().await;
        let (mut judge, mut judged_term) = (LeaderPlacementPolicy::default(), 0);
        loop {
            tick.tick().await;
            let (leader, term) = {
                let metrics = self.raft.server_metrics();
                let metrics = metrics.borrow_watched();
                (metrics.current_leader, metrics.vote.leader_id.term)
            };
            if leader != Some(self.id) {
                self.topology_view.status_text.lock().clear();
                continue;
            }
            if judged_term != term {
                (judge, judged_term) = (LeaderPlacementPolicy::default(), term);
            }
            let verdict = self.judge(&mut judge);
            *self.topology_view.status_text.lock() = verdict.to_string();
            tracing::debug!(%verdict, "leader placement evaluated");
            if let PlacementDecision::Move { to, reason } = verdict
                && self.topology_view.rtt_monitor().auto_placement().auto
            {
                tracing::info!(to, reason, "automatic transfer started");
                let done = self.members.transfer_to(to).await;
                judge = LeaderPlacementPolicy::default();
                match done {
                    Ok(result) => tracing::info!(to, result, "automatic transfer finished"),
                    Err(status) => tracing::warn!(to, %status, "automatic transfer failed"),
                }
            }
        }
    }

    fn judge(&self, judge: &mut LeaderPlacementPolicy) -> PlacementDecision {
        let view = self.topology_view.view(self.members.list_now());
        let (topology, commit) = topology(&view);
        let (unfit, hold) = (unfit(&view), self.members.is_changing());
        let hold = hold.then_some("the members are being changed");
        judge.judge(&PlacementInput {
            topology: &topology,
            commit,
            leader: self.id,
            unfit: &unfit,
            hold,
        })
    }
}
