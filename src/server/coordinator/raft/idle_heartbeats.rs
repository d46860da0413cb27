//! Heartbeats and election timers of an idle group, without openraft's ticker.
//!
//! The ticker wakes the core about five times per heartbeat interval, on every coordinator, to
//! check for a due heartbeat or election. While entries are appended this cost is negligible. While
//! none are, this module stops the ticker:
//!
//! - the leader sends heartbeats by its own timer, as seldom as the timing allows;
//! - a follower restarts the ticker after a lease without a message of its leader. No election is
//!   due sooner: openraft waits for the lease, then for a random delay.
//!
//! The ticker runs while no leader is known, and for [`QUIET`] after a leader change or an entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use pghc_runtime::geo::timing::Timing;
use pghc_runtime::task::{Tasks, fair_watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::handle::Raft;
use super::log_store::LogStore;
use crate::coordinator::settings::Settings;

/// Time without a new entry after which a group is idle.
const QUIET: Duration = Duration::from_secs(1);

/// Time of the leader's last accepted message; clones share it.
#[derive(Clone, Default)]
pub(crate) struct LeaderContact(Arc<Mutex<Option<Instant>>>);

impl LeaderContact {
    /// Records an accepted message of the leader.
    pub(crate) fn note(&self, now: Instant) {
        *self.0.lock() = Some(now);
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

/// Whether the leader suppresses its heartbeats, so that the followers elect another. Stored as an
/// extension of openraft's handle; clones share it.
#[derive(Clone, Default)]
struct HeldHeartbeats(Arc<AtomicBool>);

/// Suppresses this leader's heartbeats, the ticker's included, or resumes them.
pub(crate) fn hold_heartbeats(raft: &Raft, hold: bool) {
    raft.extension::<HeldHeartbeats>().0.store(hold, Ordering::Relaxed);
    raft.runtime_config().heartbeat(!hold);
}

/// Task that replaces the ticker while the group is idle.
pub(crate) struct IdleHeartbeats {
    id: u64,
    raft: Raft,
    timing: Timing,
    leader_contact: LeaderContact,
    /// Index of the newest entry given to the log.
    appended: fair_watch::Receiver<u64>,
}

impl IdleHeartbeats {
    /// Starts the task; returns the record of the leader's messages.
    pub(crate) fn start(
        settings: &Settings,
        raft: &Raft,
        log: &LogStore,
        tasks: &Tasks,
    ) -> LeaderContact {
        let leader_contact = LeaderContact::default();
        let idle_heartbeats = Self {
            id: settings.id,
            raft: raft.clone(),
            timing: settings.timing,
            leader_contact: leader_contact.clone(),
            appended: log.appended(),
        };
        tasks.spawn("idle heartbeats", idle_heartbeats.run());
        leader_contact
    }

    /// Runs until the consensus core ends or the task is dropped.
    async fn run(self) {
        let mut server = self.raft.server_metrics();
        let mut appended = self.appended.clone();
        loop {
            self.raft.runtime_config().tick(true);
            quiet(&mut appended).await;
            let leader = server.borrow_and_update().current_leader;
            tokio::select! {
                biased;
                changed = server.changed() => if changed.is_err() { return },
                changed = appended.changed() => if changed.is_err() { return },
                () = self.idle(leader) => {}
            }
        }
    }

    /// Keeps the time of an idle group; resolves when the ticker must run.
    async fn idle(&self, leader: Option<u64>) {
        match leader {
            None => std::future::pending().await,
            Some(leader) if leader == self.id => self.beat().await,
            Some(_) => self.listen().await,
        }
    }

    /// Sends heartbeats; resolves when the consensus core has stopped.
    async fn beat(&self) {
        self.raft.runtime_config().tick(false);
        let held = self.raft.extension::<HeldHeartbeats>();
        let mut beat = interval(Duration::from_millis(self.timing.idle_heartbeat_ms()));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            if !held.0.load(Ordering::Relaxed) && self.raft.trigger().heartbeat().await.is_err() {
                return;
            }
        }
    }

    /// Resolves when the leader has been silent for a lease.
    async fn listen(&self) {
        let lease = self.timing.lease();
        while let Some(due) =
            self.leader_contact.last().map(|leader_contact| leader_contact + lease)
            && due > Instant::now()
        {
            self.raft.runtime_config().tick(false);
            sleep_until(due).await;
        }
    }
}

/// Resolves after [`QUIET`] without an entry. Polls once in that time: waking for every entry would
/// cost more than the ticker.
async fn quiet(appended: &mut fair_watch::Receiver<u64>) {
    loop {
        let before = *appended.borrow_and_update();
        sleep(QUIET).await;
        if *appended.borrow_and_update() == before {
            return;
        }
    }
}
