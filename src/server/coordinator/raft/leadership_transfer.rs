//! Transfers leadership (Raft thesis 3.10): the most caught-up voter takes over without an election
//! timeout.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::{Instant, timeout_at};

use super::handle::{Raft, leader};
use super::idle_heartbeats::hold_heartbeats;

/// Deadlines of a transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransferLimit {
    /// Time for one target to become leader before the next one is asked.
    pub(crate) target: Duration,
    /// Time for the whole transfer; after the last target its rest is spent waiting for any new
    /// leader.
    pub(crate) all: Duration,
}

/// Asks `targets` to lead, newest durable log first. Returns whether a coordinator other than `id`,
/// this one, leads within `limit`; returns at once if this one does not lead.
pub(crate) async fn transfer_leadership(
    raft: &Raft,
    id: u64,
    targets: &BTreeSet<u64>,
    limit: TransferLimit,
) -> bool {
    let until = Instant::now() + limit.all;
    let mut asked = BTreeSet::new();
    while leader(raft) == Some(id) {
        let Some(target) = best(raft, id, targets, &asked) else {
            return !asked.is_empty() && another_leads(raft, id, until).await;
        };
        asked.insert(target);
        tracing::info!(target, "leadership transfer started");
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

/// Suppresses heartbeats so that the followers elect another leader.
///
/// openraft's leader rejects writes after a transfer request, so a failed transfer must end its
/// term. Ends when `id`, this coordinator, does not lead, or after `limit`: without another
/// candidate, continued leadership beats an outage.
pub(crate) async fn step_down(raft: Raft, id: u64, limit: Duration) {
    tracing::warn!("leadership transfer failed, heartbeats suppressed");
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

/// Whether a coordinator other than `id` leads by `until`.
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
