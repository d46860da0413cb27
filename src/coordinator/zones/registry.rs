//! What this coordinator knows of the zones: which exist, by the replicated registry; how far each
//! has applied and when it last spoke, by the reports of its API nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::{BadId, ZoneName};
use pghc_api::limits::ZONES_MAX;
use tokio::time::Instant;

use super::names::{Names, Taken};
use super::state::{Feed, Heads, Known, SILENT_AFTER, state};
use crate::rpc::v1::zone_view::State;
use crate::rpc::v1::{ZoneReport, ZoneView};
use crate::sequencer::{self, Registration};
use crate::task::watch;

/// Zones that report and are not known, which are remembered to be shown; further ones are not. A silent one
/// is forgotten after [`UNKNOWN_FOR`].
const UNKNOWN_MAX: usize = 16;
const UNKNOWN_FOR: Duration = Duration::from_secs(60);

/// Why a report is not taken.
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
    Taken(#[from] Taken),
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
    trouble: String,
    api_url: String,
    filling: bool,
    heard: Instant,
    /// When its applier last spoke.
    applier_heard: Option<Instant>,
}

impl Zone {
    fn first_heard(now: Instant) -> Self {
        Self {
            frontier: 0,
            flushed: 0,
            applier: String::new(),
            halted: String::new(),
            trouble: String::new(),
            api_url: String::new(),
            filling: false,
            heard: now,
            applier_heard: None,
        }
    }

    /// Its frontier; `None` while only standby nodes were heard, which do not speak for it.
    fn known_frontier(&self) -> Option<u64> {
        self.applier_heard.map(|_| self.frontier)
    }
}

/// Tells the zones that the members of the group are in.
pub(crate) type Inhabited = Box<dyn Fn() -> BTreeSet<ZoneName> + Send + Sync>;

/// All zones by name.
pub(crate) struct Zones {
    /// The registry as this coordinator has sequenced it.
    registry: watch::Receiver<Arc<sequencer::Zones>>,
    /// Zones to begin with, while none is registered.
    expected: Vec<ZoneName>,
    /// Zones that the members of the group are in.
    inhabited: Inhabited,
    /// Since when they could have been heard of.
    since: Instant,
    heard: Mutex<BTreeMap<ZoneName, Zone>>,
    names: Mutex<Names>,
    heads: Mutex<Heads>,
    changed: watch::Sender<()>,
    newcomer: watch::Sender<()>,
}

impl Zones {
    /// `expected` are the zones that count before any is registered; afterwards those count that members
    /// are in, and those that a person has added.
    pub(crate) fn new(
        registry: watch::Receiver<Arc<sequencer::Zones>>,
        (expected, inhabited): (Vec<ZoneName>, Inhabited),
        since: Instant,
    ) -> Self {
        let (changed, newcomer) = (watch::Sender::new(()), watch::Sender::new(()));
        let (heard, names, heads) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { registry, expected, inhabited, since, heard, names, heads, changed, newcomer }
    }

    /// The registry as this coordinator has sequenced it, and its changes.
    pub(crate) fn registry(&self) -> watch::Receiver<Arc<sequencer::Zones>> {
        self.registry.clone()
    }

    /// Takes in a report. Standby nodes report too; only the applier's word counts for more than
    /// being alive. Who only asks names no zone.
    ///
    /// # Errors
    /// The zone was removed, is not known, or is one too many; or another process has the node's name.
    pub(crate) fn report(&self, report: ZoneReport, now: Instant) -> Result<(), Refusal> {
        if report.zone.is_empty() {
            return Ok(());
        }
        let name: ZoneName = report.zone.parse()?;
        let registry = Arc::clone(&self.registry.borrow());
        let registration = registry.get(&name);
        if registration == Some(Registration::Removed) {
            self.heard.lock().remove(&name);
            return Err(Refusal::Removed(name));
        }
        self.names.lock().claim(&report, now)?;
        // Before any zone is registered there is nothing to know a zone by.
        let is_known =
            registration.is_some() || registry.is_empty() || (self.inhabited)().contains(&name);
        let mut zones = self.heard.lock();
        if is_known && registration.is_none() && (registry.is_full() || zones.len() >= ZONES_MAX) {
            zones.retain(|name, _| registry.get(name) == Some(Registration::Registered));
            return Err(Refusal::Full(name));
        }
        if !is_known {
            let is_unknown = |name: &ZoneName| registry.get(name).is_none();
            zones.retain(|name, zone| !is_unknown(name) || now - zone.heard < UNKNOWN_FOR);
            if zones.keys().filter(|name| is_unknown(name)).count() < UNKNOWN_MAX {
                zones.entry(name.clone()).or_insert_with(|| Zone::first_heard(now)).heard = now;
            }
            return Err(Refusal::Unknown(name));
        }
        let zone = zones.entry(name).or_insert_with(|| Zone::first_heard(now));
        zone.heard = now;
        if report.is_applier {
            // A zone's frontier goes back when its database was restored: the report stands.
            zone.frontier = report.frontier;
            zone.flushed = report.flushed;
            zone.applier = report.node;
            zone.halted = report.halted;
            zone.trouble = report.trouble;
            zone.api_url = report.api_url;
            zone.filling = report.filling;
            zone.applier_heard = Some(now);
        } else if now - zone.applier_heard.unwrap_or(self.since) > SILENT_AFTER {
            // Nobody applies: what the others say is the newest there is.
            zone.halted = report.halted;
            zone.trouble = report.trouble;
            zone.filling = report.filling;
        }
        drop(zones);
        self.changed.send_replace(());
        if registration.is_none() {
            self.newcomer.send_replace(());
        }
        Ok(())
    }

    /// Live zones that have not applied `id`: not those that are not registered, have halted, are silent or
    /// cannot be fed from the log. A registered zone that was not heard of since this process started
    /// counts as live for as long as one that has just fallen silent.
    pub(crate) fn behind(&self, id: u64, feed: Feed, now: Instant) -> Vec<String> {
        let registry = self.registry.borrow();
        let zones = self.heard.lock();
        let live = |(name, zone): &(&ZoneName, &Zone)| {
            now - zone.heard < SILENT_AFTER
                && zone.halted.is_empty()
                && !zone.filling
                && zone.known_frontier().is_none_or(|frontier| feed.reaches(frontier))
                && (registry.is_empty() || registry.get(name) == Some(Registration::Registered))
        };
        let behind = zones.iter().filter(|(_, zone)| zone.frontier < id).filter(live);
        let unheard = registry.that_are(Registration::Registered);
        let unheard = unheard.filter(|name| !zones.contains_key(*name));
        let unheard = unheard.filter(|_| now - self.since < SILENT_AFTER);
        behind.map(|(name, _)| name).chain(unheard).map(ToString::to_string).collect()
    }

    /// Newest id up to which no registered zone needs the log, of those for which it holds all they
    /// need; what a zone lacks that was purged already is no reason to keep the rest. `None`
    /// while the applier of one of them is unheard of, so that it may need everything.
    ///
    /// Before any zone is registered, as during a rolling upgrade, the zones that have a coordinator
    /// count, and those that were heard of.
    pub(crate) fn needless(&self, feed: Feed) -> Option<u64> {
        let registry = self.registry.borrow();
        let zones = self.heard.lock();
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

    /// Zones that a leader registers by itself: those that members are in, and before any is registered
    /// those that are expected; ascending.
    pub(crate) fn unregistered(&self) -> Vec<ZoneName> {
        let registry = Arc::clone(&self.registry.borrow());
        let known: BTreeSet<ZoneName> = match registry.is_empty() {
            true => self.expected.iter().cloned().collect(),
            false => (self.inhabited)(),
        };
        known.into_iter().filter(|name| registry.get(name).is_none()).collect()
    }

    /// Names of removed zones that no leader would register by itself: nothing needs them.
    pub(crate) fn forgettable(&self) -> Vec<ZoneName> {
        let registry = Arc::clone(&self.registry.borrow());
        let inhabited = (self.inhabited)();
        let removed = registry.that_are(Registration::Removed);
        removed.filter(|name| !inhabited.contains(*name)).cloned().collect()
    }

    /// Changes when [`Zones::unregistered`] may hold a zone that it did not.
    pub(crate) fn newcomers(&self) -> watch::Receiver<()> {
        self.newcomer.subscribe()
    }

    /// Resolves when a report has come in since `receiver` last looked.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether somebody waits for [`Self::changes`].
    pub(crate) fn are_awaited(&self) -> bool {
        self.changed.is_watched()
    }

    /// The head a while ago, when it is `head` now.
    pub(crate) fn earlier_head(&self, head: u64, now: Instant) -> u64 {
        let mut heads = self.heads.lock();
        heads.note(head, now);
        heads.earlier(now)
    }

    /// All zones but the removed ones, for status answers: registered, or heard of.
    pub(crate) fn views(&self, feed: Feed, now: Instant) -> Vec<ZoneView> {
        let registry = self.registry.borrow();
        let zones = self.heard.lock();
        let registered = registry.that_are(Registration::Registered).map(|name| (name, true));
        let mut names: BTreeMap<&ZoneName, bool> =
            zones.keys().map(|name| (name, false)).chain(registered).collect();
        names.retain(|name, _| registry.get(name) != Some(Registration::Removed));
        let view = |(name, registered): (&ZoneName, bool)| {
            let zone = zones.get(name);
            let silent = now - zone.map_or(self.since, |zone| zone.heard);
            let frontier = zone.and_then(Zone::known_frontier);
            let filling = zone.is_some_and(|zone| zone.filling);
            let text = |of: fn(&Zone) -> &String| zone.map(of).cloned().unwrap_or_default();
            ZoneView {
                zone: name.to_string(),
                frontier: frontier.unwrap_or_default(),
                applier: text(|zone| &zone.applier),
                halted: text(|zone| &zone.halted),
                trouble: text(|zone| &zone.trouble),
                api_url: text(|zone| &zone.api_url),
                silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                state: State::into(state(Known { frontier, filling, silent }, feed)),
                registered,
            }
        };
        names.into_iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests;
