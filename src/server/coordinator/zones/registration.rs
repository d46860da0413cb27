//! Changes the registry of zones through the leader.
//!
//! A leader registers its members' zones by itself; operators request other changes.

use std::sync::Arc;
use std::time::Duration;

use pghc_api::id::ZoneName;
use tokio::time::Instant;

use super::registry::Zones;
use crate::coordinator::ordering::leader_client::LeaderClient;
use crate::coordinator::ordering::proposer::ProposeResult;
use crate::sequencer::{Registration, ZoneAct, ZoneChange};

/// Pause before another attempt.
const RETRY: Duration = Duration::from_millis(100);

/// Pause before the members are probed again for the first registration.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Deadline of a requested change.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// Changes the registry.
#[derive(Clone)]
pub(crate) struct Registrar {
    leader_client: LeaderClient,
    zones: Arc<Zones>,
    /// Deadline of one attempt to reach the leader.
    attempt_max: Duration,
}

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("zone {0} is not known to this cluster; pghc zone list shows those that are")]
    Unknown(ZoneName),
    #[error("{0}")]
    Full(String),
    #[error(
        "nothing was changed: this would be the first zone that is registered, and not every \
         coordinator runs a version that knows of zones and answers; the log of the leader names \
         those that are waited for; start or upgrade them, or take them out (pghc members remove), \
         and repeat"
    )]
    NotReadable,
    #[error(
        "no majority of the coordinators has confirmed it within {} s; it may still happen: check \
         with pghc zone list, or repeat it, which does no harm",
        CHANGE_MAX.as_secs()
    )]
    NotConfirmed,
}

impl Registrar {
    /// `attempt_max` is the deadline of one attempt to reach the leader.
    pub(crate) fn new(
        leader_client: &LeaderClient,
        zones: &Arc<Zones>,
        attempt_max: Duration,
    ) -> Self {
        Self { leader_client: leader_client.clone(), zones: Arc::clone(zones), attempt_max }
    }

    /// Registers zones of members and forgets unneeded removed ones, until dropped.
    pub(crate) async fn run(self) {
        let (mut newcomers, mut registry) = (self.zones.newcomers(), self.zones.registry());
        let mut leadership = self.leader_client.leadership();
        loop {
            newcomers.borrow_and_update();
            registry.borrow_and_update();
            leadership.borrow_and_update();
            let mut again = None;
            for change in self.due() {
                let ZoneChange { act, zone } = change.clone();
                match self.leader_client.propose_zone_change(&change).await {
                    ProposeResult::Committed => {
                        tracing::info!(%zone, ?act, "registry of zones changed")
                    }
                    ProposeResult::NotReadable => {
                        again = Some(ASK_AGAIN);
                        break;
                    }
                    _ => again = Some(RETRY),
                }
            }
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return },
                changed = newcomers.changed() => if changed.is_err() { return },
                changed = registry.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(again.unwrap_or(RETRY)), if again.is_some() => {}
            }
        }
    }

    /// Returns the changes that a leader makes by itself; none on a follower.
    fn due(&self) -> Vec<ZoneChange> {
        if !self.leader_client.leads() {
            return Vec::new();
        }
        let is_full = self.zones.registry().borrow().is_full();
        let new = if is_full { Vec::new() } else { self.zones.unregistered() };
        let act = |act: ZoneAct| move |zone: ZoneName| ZoneChange { act, zone };
        let forget = self.zones.forgettable().into_iter().map(act(ZoneAct::Forget));
        new.into_iter().map(act(ZoneAct::Register)).chain(forget).collect()
    }

    /// Adds or removes a zone and waits until the change is sequenced here. Returns whether the
    /// zone's state was different before; repetition is harmless.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub(crate) async fn change(&self, change: ZoneChange) -> Result<bool, ChangeError> {
        let wanted = match change.act {
            ZoneAct::Register | ZoneAct::Add => Registration::Registered,
            ZoneAct::Remove | ZoneAct::Forget => Registration::Removed,
        };
        let until = Instant::now() + CHANGE_MAX;
        let mut registry = self.zones.registry();
        let before = registry.borrow_and_update().get(&change.zone);
        loop {
            // Proposed even if already true here: this coordinator may not know the newest
            // registry.
            let attempt = self.leader_client.attempt_zone_change(&change, self.attempt_max).await;
            if attempt == ProposeResult::Committed {
                // The leader has sequenced the change; here it arrives with the next append.
                let wait =
                    if self.leader_client.leads() { Duration::ZERO } else { self.attempt_max };
                let so = registry.wait_for(|zones| match zones.get(&change.zone) {
                    // A removed zone may be forgotten at once.
                    None => wanted == Registration::Removed && before.is_some(),
                    now => now == Some(wanted),
                });
                if tokio::time::timeout(wait, so).await.is_ok() {
                    return Ok(before != Some(wanted));
                }
                let (zones, zone) = (registry.borrow(), change.zone.clone());
                match zones.get(&zone) {
                    None if zones.is_full() => {
                        return Err(ChangeError::Full(
                            super::registry::Refusal::Full(zone).to_string(),
                        ));
                    }
                    None if wanted == Registration::Removed => {
                        return Err(ChangeError::Unknown(zone));
                    }
                    _ => {}
                }
            }
            if Instant::now() >= until {
                let is_early = attempt == ProposeResult::NotReadable;
                return Err(if is_early {
                    ChangeError::NotReadable
                } else {
                    ChangeError::NotConfirmed
                });
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
