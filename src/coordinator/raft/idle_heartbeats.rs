//! Heartbeats and election timers of an idle group, without openraft's ticker.
//!
//! The ticker wakes the core about five times in each heartbeat interval, on every coordinator, to look
//! whether a heartbeat or an election is due. While entries are appended that costs nothing beside the
//! entries. While none are, this module stops the ticker:
//!
//! - the leader sends its heartbeats by a timer of its own, as seldom as the timing allows;
//! - a follower restarts the ticker when its leader was silent for a lease. No election can be due sooner:
//!   openraft waits for the lease, and then for what it has drawn.
//!
//! The ticker runs whenever no leader is known, and for [`QUIET`] after a change of leader or an entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::handle::Raft;
use super::log_store::LogStore;
use crate::coordinator::settings::Settings;
use crate::geo::timing::Timing;
use crate::task::{Tasks, watch};

/// Time without a new entry after which a group counts as idle.
const QUIET: Duration = Duration::from_secs(1);

/// When this coordinator last took something of its leader; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    /// Something of the leader was taken.
    pub(crate) fn note(&self, now: Instant) {
        *self.0.lock() = Some(now);
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

/// Whether the leader holds its heartbeats back, so that the others elect one of them. Kept as an
/// extension of openraft's handle; clones are the same.
#[derive(Clone, Default)]
struct Held(Arc<AtomicBool>);

/// Holds the heartbeats of this leader back, those of the ticker too, or lets them go.
pub(crate) fn hold_heartbeats(raft: &Raft, hold: bool) {
    raft.extension::<Held>().0.store(hold, Ordering::Relaxed);
    raft.runtime_config().heartbeat(!hold);
}

/// See the module.
pub(crate) struct IdleHeartbeats {
    id: u64,
    raft: Raft,
    timing: Timing,
    heard: Heard,
    /// Index of the newest entry that was given to the log.
    appended: watch::Receiver<u64>,
}

impl IdleHeartbeats {
    /// Starts the task; answers where it is to be noted what is taken of the leader.
    pub(crate) fn start(settings: &Settings, raft: &Raft, log: &LogStore, tasks: &Tasks) -> Heard {
        let heard = Heard::default();
        let pulse = Self {
            id: settings.id,
            raft: raft.clone(),
            timing: settings.timing,
            heard: heard.clone(),
            appended: log.appended(),
        };
        tasks.spawn("pulse", pulse.run());
        heard
    }

    /// Runs until the consensus core ends, or until it is dropped.
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
        let held = self.raft.extension::<Held>();
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
        while let Some(due) = self.heard.last().map(|heard| heard + lease)
            && due > Instant::now()
        {
            self.raft.runtime_config().tick(false);
            sleep_until(due).await;
        }
    }
}

/// Resolves when no entry has come for [`QUIET`]. Looks once in that time: a task that every entry wakes
/// would cost more than it saves.
async fn quiet(appended: &mut watch::Receiver<u64>) {
    loop {
        let before = *appended.borrow_and_update();
        sleep(QUIET).await;
        if *appended.borrow_and_update() == before {
            return;
        }
    }
}
