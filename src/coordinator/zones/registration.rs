//! Has the registry of zones changed: by itself for the zones of members, while this coordinator leads, and
//! on request, through the leader.

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

/// Pause before all members are asked again whether they can read the first registration.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Longest time a change on request may take.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// Changes the registry.
#[derive(Clone)]
pub(crate) struct Registrar {
    leader_client: LeaderClient,
    zones: Arc<Zones>,
    /// How long one attempt to reach the leader may take before it is made again.
    attempt_max: Duration,
}

/// Why a change did not come about.
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
        "no majority of the coordinators has confirmed it within {} s; it may still come about: look \
         with pghc zone list, or repeat it, which does no harm",
        CHANGE_MAX.as_secs()
    )]
    NotConfirmed,
}

impl Registrar {
    /// `attempt_max` bounds one attempt to reach the leader; then it is made again.
    pub(crate) fn new(
        leader_client: &LeaderClient,
        zones: &Arc<Zones>,
        attempt_max: Duration,
    ) -> Self {
        Self { leader_client: leader_client.clone(), zones: Arc::clone(zones), attempt_max }
    }

    /// Registers zones of members and forgets removed ones that nothing needs, until it is dropped.
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

    /// What a leader changes by itself now; nothing while another coordinator leads.
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

    /// Has a zone added or removed and waits until it is so here; whether it was not so before.
    /// Repeating it does no harm.
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
            // Also when it is so already, as far as this coordinator knows: it may not know the newest.
            let attempt = self.leader_client.attempt_zone_change(&change, self.attempt_max).await;
            if attempt == ProposeResult::Committed {
                // At the leader it is carried out already; here it comes with the next append.
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
