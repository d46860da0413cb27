//! Tracks the zones: their registration by the replicated registry, their progress by API nodes'
//! reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::{BadId, ZoneName};
use pghc_api::limits::ZONES_MAX;
use pghc_runtime::rpc::v1::zone_view::State;
use pghc_runtime::rpc::v1::{ZoneReport, ZoneView};
use pghc_runtime::task::fair_watch;
use tokio::time::Instant;

use super::names::{NameTaken, Names};
use super::state::{Feed, Heads, SILENT_AFTER, ZoneProgress, state};
use crate::sequencer::{self, Registration};

/// Most unknown reporting zones kept for display; a silent one is dropped after [`UNKNOWN_FOR`].
const UNKNOWN_MAX: usize = 16;
const UNKNOWN_FOR: Duration = Duration::from_secs(60);

/// Why a report is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Name(#[from] BadId),
    #[error(
        "zone {0} was removed from this cluster: its frontier holds nothing back and its reports are \
         not taken; if it should be part of it again: pghc zone add {0}"
    )]
    Removed(ZoneName),
    #[error(
        "zone {0} is not known to this cluster: its frontier holds nothing back, it is not waited for, and \
         its reports are not taken; if the name is right and the zone is new: pghc zone add {0}"
    )]
    Unknown(ZoneName),
    #[error("{0}")]
    NameTaken(#[from] NameTaken),
    #[error(
        "zone {0} is not known and {ZONES_MAX} zones are already: remove one that no longer exists"
    )]
    Full(ZoneName),
}

#[derive(Debug, Clone)]
struct Zone {
    frontier: u64,
    flushed: u64,
    applier: String,
    halted: String,
    degraded_reason: String,
    api_url: String,
    backfilling: bool,
    reported: Instant,
    /// Time of its applier's last report.
    applier_reported: Option<Instant>,
}

impl Zone {
    fn first_reported(now: Instant) -> Self {
        Self {
            frontier: 0,
            flushed: 0,
            applier: String::new(),
            halted: String::new(),
            degraded_reason: String::new(),
            api_url: String::new(),
            backfilling: false,
            reported: now,
            applier_reported: None,
        }
    }

    /// Returns its frontier; `None` while only standby nodes have reported.
    fn known_frontier(&self) -> Option<u64> {
        self.applier_reported.map(|_| self.frontier)
    }
}

/// Returns the zones of the group's members.
pub(crate) type MemberZones = Box<dyn Fn() -> BTreeSet<ZoneName> + Send + Sync>;

/// All zones by name.
pub(crate) struct Zones {
    /// Registry as sequenced here.
    registry: fair_watch::Receiver<Arc<sequencer::Zones>>,
    /// Initial zones while none is registered.
    expected: Vec<ZoneName>,
    /// Returns the zones of the group's members.
    member_zones: MemberZones,
    /// Time since which reports could have arrived.
    since: Instant,
    reported: Mutex<BTreeMap<ZoneName, Zone>>,
    names: Mutex<Names>,
    heads: Mutex<Heads>,
    changed: fair_watch::Sender<()>,
    newcomer: fair_watch::Sender<()>,
}

impl Zones {
    /// `expected` are the zones that count before any is registered. Afterwards the members' zones
    /// and those added by an operator count.
    pub(crate) fn new(
        registry: fair_watch::Receiver<Arc<sequencer::Zones>>,
        (expected, member_zones): (Vec<ZoneName>, MemberZones),
        since: Instant,
    ) -> Self {
        let (changed, newcomer) = (fair_watch::Sender::new(()), fair_watch::Sender::new(()));
        let (reported, names, heads) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { registry, expected, member_zones, since, reported, names, heads, changed, newcomer }
    }

    /// Returns the sequenced registry and its changes.
    pub(crate) fn registry(&self) -> fair_watch::Receiver<Arc<sequencer::Zones>> {
        self.registry.clone()
    }

    /// Records a report. Standby nodes only prove that a zone is alive; its progress is the
    /// applier's. A status query names no zone.
    ///
    /// # Errors
    /// If the zone was removed, is unknown or exceeds the limit, or if another process owns the
    /// node's name.
    pub(crate) fn report(&self, report: ZoneReport, now: Instant) -> Result<(), Refusal> {
        if report.zone.is_empty() {
            return Ok(());
        }
        let name: ZoneName = report.zone.parse()?;
        let registry = Arc::clone(&self.registry.borrow());
        let registration = registry.get(&name);
        if registration == Some(Registration::Removed) {
            self.reported.lock().remove(&name);
            return Err(Refusal::Removed(name));
        }
        self.names.lock().claim(&report, now)?;
        // Before the first registration every zone is accepted.
        let is_known =
            registration.is_some() || registry.is_empty() || (self.member_zones)().contains(&name);
        let mut zones = self.reported.lock();
        if is_known && registration.is_none() && (registry.is_full() || zones.len() >= ZONES_MAX) {
            zones.retain(|name, _| registry.get(name) == Some(Registration::Registered));
            return Err(Refusal::Full(name));
        }
        if !is_known {
            let is_unknown = |name: &ZoneName| registry.get(name).is_none();
            zones.retain(|name, zone| !is_unknown(name) || now - zone.reported < UNKNOWN_FOR);
            if zones.keys().filter(|name| is_unknown(name)).count() < UNKNOWN_MAX {
                zones.entry(name.clone()).or_insert_with(|| Zone::first_reported(now)).reported =
                    now;
            }
            return Err(Refusal::Unknown(name));
        }
        let zone = zones.entry(name).or_insert_with(|| Zone::first_reported(now));
        zone.reported = now;
        if report.is_applier {
            // A restored database moves the frontier back: the report counts.
            zone.frontier = report.frontier;
            zone.flushed = report.flushed;
            zone.applier = report.node;
            zone.halted = report.halted;
            zone.degraded_reason = report.degraded_reason;
            zone.api_url = report.api_url;
            zone.backfilling = report.backfilling;
            zone.applier_reported = Some(now);
        } else if now - zone.applier_reported.unwrap_or(self.since) > SILENT_AFTER {
            // Without an applier the other nodes' state is the newest.
            zone.halted = report.halted;
            zone.degraded_reason = report.degraded_reason;
            zone.backfilling = report.backfilling;
        }
        drop(zones);
        self.changed.send_replace(());
        if registration.is_none() {
            self.newcomer.send_replace(());
        }
        Ok(())
    }

    /// Returns live zones that have not applied `id`. Unregistered, halted, silent or detached
    /// zones are omitted. A registered zone without a report since this process started counts as
    /// live for [`SILENT_AFTER`].
    pub(crate) fn behind(&self, id: u64, feed: Feed, now: Instant) -> Vec<String> {
        let registry = self.registry.borrow();
        let zones = self.reported.lock();
        let live = |(name, zone): &(&ZoneName, &Zone)| {
            now - zone.reported < SILENT_AFTER
                && zone.halted.is_empty()
                && !zone.backfilling
                && zone.known_frontier().is_none_or(|frontier| feed.reaches(frontier))
                && (registry.is_empty() || registry.get(name) == Some(Registration::Registered))
        };
        let behind = zones.iter().filter(|(_, zone)| zone.frontier < id).filter(live);
        let unreported = registry.that_are(Registration::Registered);
        let unreported = unreported.filter(|name| !zones.contains_key(*name));
        let unreported = unreported.filter(|_| now - self.since < SILENT_AFTER);
        behind.map(|(name, _)| name).chain(unreported).map(ToString::to_string).collect()
    }

    /// Returns the newest id up to which no registered zone needs the log.
    ///
    /// A zone that lacks purged ids holds back nothing. `None` while a zone's applier has not
    /// reported, since it may need every entry. Before the first registration, as during a rolling
    /// upgrade, zones with a coordinator or a report count.
    pub(crate) fn unneeded_up_to(&self, feed: Feed) -> Option<u64> {
        let registry = self.registry.borrow();
        let zones = self.reported.lock();
        let mut least = u64::MAX;
        let counting: BTreeSet<&ZoneName> = match registry.is_empty() {
            true => self.expected.iter().chain(zones.keys()).collect(),
            false => registry.that_are(Registration::Registered).collect(),
        };
        if counting.is_empty() && registry.is_empty() {
            return None;
        }
        for name in counting {
            let zone = zones.get(name)?;
            zone.known_frontier()?;
            let flushed = zone.flushed;
            if feed.is_logged_after(flushed) {
                least = least.min(flushed);
            }
        }
        Some(least)
    }

    /// Returns the zones that a leader registers by itself, ascending: the members' zones and,
    /// before the first registration, the expected ones.
    pub(crate) fn unregistered(&self) -> Vec<ZoneName> {
        let registry = Arc::clone(&self.registry.borrow());
        let known: BTreeSet<ZoneName> = match registry.is_empty() {
            true => self.expected.iter().cloned().collect(),
            false => (self.member_zones)(),
        };
        known.into_iter().filter(|name| registry.get(name).is_none()).collect()
    }

    /// Returns removed zones that no leader would register by itself.
    pub(crate) fn forgettable(&self) -> Vec<ZoneName> {
        let registry = Arc::clone(&self.registry.borrow());
        let member_zones = (self.member_zones)();
        let removed = registry.that_are(Registration::Removed);
        removed.filter(|name| !member_zones.contains(*name)).cloned().collect()
    }

    /// Changes when [`Zones::unregistered`] may return a new zone.
    pub(crate) fn newcomers(&self) -> fair_watch::Receiver<()> {
        self.newcomer.subscribe()
    }

    /// Resolves when a report has arrived since `receiver` was last read.
    pub(crate) fn changes(&self) -> fair_watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether [`Self::changes`] has receivers.
    pub(crate) fn have_waiters(&self) -> bool {
        self.changed.is_watched()
    }

    /// Returns an earlier head, when the head is now `head`.
    pub(crate) fn earlier_head(&self, head: u64, now: Instant) -> u64 {
        let mut heads = self.heads.lock();
        heads.record(head, now);
        heads.earlier(now)
    }

    /// Returns the views of all registered or reporting zones, without the removed ones.
    pub(crate) fn views(&self, feed: Feed, now: Instant) -> Vec<ZoneView> {
        let registry = self.registry.borrow();
        let zones = self.reported.lock();
        let registered = registry.that_are(Registration::Registered).map(|name| (name, true));
        let mut names: BTreeMap<&ZoneName, bool> =
            zones.keys().map(|name| (name, false)).chain(registered).collect();
        names.retain(|name, _| registry.get(name) != Some(Registration::Removed));
        let view = |(name, registered): (&ZoneName, bool)| {
            let zone = zones.get(name);
            let silent = now - zone.map_or(self.since, |zone| zone.reported);
            let frontier = zone.and_then(Zone::known_frontier);
            let backfilling = zone.is_some_and(|zone| zone.backfilling);
            let text = |of: fn(&Zone) -> &String| zone.map(of).cloned().unwrap_or_default();
            ZoneView {
                zone: name.to_string(),
                frontier: frontier.unwrap_or_default(),
                applier: text(|zone| &zone.applier),
                halted: text(|zone| &zone.halted),
                degraded_reason: text(|zone| &zone.degraded_reason),
                api_url: text(|zone| &zone.api_url),
                silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                state: State::into(state(ZoneProgress { frontier, backfilling, silent }, feed)),
                registered,
            }
        };
        names.into_iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests;
