//! Automatic placement: the loop by which a leader transfers its leadership to where the writes are.
//!
//! Only the leader decides, by `geo::placement`, once in a window; the transfer is the one that an operator
//! makes with `pghc leader move`.

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::{MissedTickBehavior, interval};

use super::service::MembersService;
use crate::coordinator::placement::topology_view::{TopologyView, survey, unfit};
use crate::coordinator::raft::handle::Raft;
use crate::geo::placement::{Judge, Verdict, WINDOW, Window};

/// The loop.
pub(crate) struct LeaderBalancer {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) board: TopologyView,
    pub(crate) members: MembersService,
}

impl LeaderBalancer {
    /// Looks once in a window, for as long as the coordinator runs.
    pub(crate) async fn run(self) {
        let mut tick = interval(WINDOW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        tick.tick().await;
        let (mut judge, mut judged_term) = (Judge::default(), 0);
        loop {
            tick.tick().await;
            let (leader, term) = {
                let metrics = self.raft.server_metrics();
                let metrics = metrics.borrow_watched();
                (metrics.current_leader, metrics.vote.leader_id.term)
            };
            if leader != Some(self.id) {
                self.board.says.lock().clear();
                continue;
            }
            if judged_term != term {
                (judge, judged_term) = (Judge::default(), term);
            }
            let verdict = self.judge(&mut judge);
            *self.board.says.lock() = verdict.to_string();
            tracing::debug!(%verdict, "the place of the lead was judged");
            if let Verdict::Move { to, reason } = verdict
                && self.board.rtt_monitor().auto_placement().auto
            {
                tracing::info!(to, reason, "the lead moves");
                let done = self.members.lead(to).await;
                judge = Judge::default();
                match done {
                    Ok(said) => tracing::info!(to, said, "the lead was moved"),
                    Err(status) => tracing::warn!(to, %status, "the lead was not moved"),
                }
            }
        }
    }

    fn judge(&self, judge: &mut Judge) -> Verdict {
        let view = self.board.view(self.members.list_now());
        let (survey, commit) = survey(&view);
        let (unfit, hold) = (unfit(&view), self.members.is_changing());
        let hold = hold.then_some("the members are being changed");
        judge.judge(&Window { survey: &survey, commit, leader: self.id, unfit: &unfit, hold })
    }
}
