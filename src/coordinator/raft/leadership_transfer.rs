//! Planned moves of the lead: the most caught-up voter takes over at once, instead of after an
//! election timeout.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::{Instant, timeout_at};

use super::handle::{Raft, leader};
use super::idle_heartbeats::hold_heartbeats;

/// How long a planned move may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// An heir that was asked and does not lead after so long is passed over for the next.
    pub(crate) target: Duration,
    /// All of it. When every heir was asked, the rest of it is waited for one of them to lead.
    pub(crate) all: Duration,
}

/// Has one of `targets` lead, the one with the newest entries on its disk; ends when another leads
/// than `id`, this coordinator, or at once if it does not lead. Whether somebody else leads within
/// `limit`.
pub(crate) async fn transfer_leadership(
    raft: &Raft,
    id: u64,
    targets: &BTreeSet<u64>,
    limit: Limit,
) -> bool {
    let until = Instant::now() + limit.all;
    let mut asked = BTreeSet::new();
    while leader(raft) == Some(id) {
        let Some(target) = best(raft, id, targets, &asked) else {
            return !asked.is_empty() && another_leads(raft, id, until).await;
        };
        asked.insert(target);
        tracing::info!(target, "handing the lead over");
        if raft.trigger().transfer_leader(target).await.is_err() {
            return false;
        }
        let next = Instant::now() + limit.target;
        if !another_leads(raft, id, next.min(until)).await && Instant::now() >= until {
            return false;
        }
    }
    another_leads(raft, id, until).await
}

/// Lets the others elect one of them: for a leader whose heir did not take over, since openraft's
/// leader takes no more writes once it has asked. Ends when `id`, this coordinator, does not lead, or
/// after `limit`: when nobody else can be elected, going on as leader is better than silence.
pub(crate) async fn step_down(raft: Raft, id: u64, limit: Duration) {
    tracing::warn!("the heir did not take the lead over; waiting for an election");
    hold_heartbeats(&raft, true);
    let mut metrics = raft.server_metrics();
    let until = Instant::now() + limit;
    while leader(&raft) == Some(id)
        && matches!(timeout_at(until, metrics.changed()).await, Ok(Ok(())))
    {}
    hold_heartbeats(&raft, false);
}

fn best(raft: &Raft, id: u64, targets: &BTreeSet<u64>, asked: &BTreeSet<u64>) -> Option<u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let fit = |target: &u64| *target != id && voters.contains(target) && !asked.contains(target);
    let fit = targets.iter().copied().filter(fit);
    fit.max_by_key(|target| replication.get(target).cloned().flatten())
}

/// Whether, by `until`, another than `id` leads.
async fn another_leads(raft: &Raft, id: u64, until: Instant) -> bool {
    let mut metrics = raft.server_metrics();
    loop {
        if metrics.borrow_watched().current_leader.is_some_and(|leader| leader != id) {
            return true;
        }
        if !matches!(timeout_at(until, metrics.changed()).await, Ok(Ok(()))) {
            return false;
        }
    }
}
