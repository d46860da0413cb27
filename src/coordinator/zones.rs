//! What this coordinator has heard of the zones: how far each has applied, and when it last spoke.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::rpc::v1::{ZoneReport, ZoneView};

/// A zone not heard of for so long is not waited for. Until its applier is silent for so long, only
/// the applier's word says how the zone is.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Most zones remembered; reports of further ones are dropped.
const ZONES_MAX: usize = 256;

#[derive(Debug, Clone)]
struct Zone {
    frontier: u64,
    flushed: u64,
    applier: String,
    halted: String,
    trouble: String,
    heard: Instant,
    /// When its applier last spoke.
    applier_heard: Option<Instant>,
}

/// All zones by name.
pub(super) struct Zones {
    /// Zones that are known to exist, heard of or not.
    names: Vec<String>,
    /// Since when they could have been heard of.
    since: Instant,
    zones: Mutex<BTreeMap<String, Zone>>,
    changed: watch::Sender<()>,
}

impl Zones {
    pub(super) fn new(names: Vec<String>, since: Instant) -> Self {
        Self { names, since, zones: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Takes in a report. Standby nodes report too; only the applier's word counts for more than
    /// being alive.
    pub(super) fn report(&self, report: ZoneReport, now: Instant) {
        let mut zones = self.zones.lock();
        let is_new = !zones.contains_key(&report.zone);
        if report.zone.is_empty() || (is_new && zones.len() >= ZONES_MAX) {
            // Who only asks names no zone.
            return;
        }
        let zone = zones.entry(report.zone).or_insert_with(|| Zone {
            frontier: 0,
            flushed: 0,
            applier: String::new(),
            halted: String::new(),
            trouble: String::new(),
            heard: now,
            applier_heard: None,
        });
        zone.heard = now;
        if report.is_applier {
            // A zone's frontier goes back when its database was restored: the report stands.
            zone.frontier = report.frontier;
            zone.flushed = report.flushed;
            zone.applier = report.node;
            zone.halted = report.halted;
            zone.trouble = report.trouble;
            zone.applier_heard = Some(now);
        } else if now - zone.applier_heard.unwrap_or(self.since) > SILENT_AFTER {
            // Nobody applies: what the others say is the newest there is.
            zone.halted = report.halted;
            zone.trouble = report.trouble;
        }
        drop(zones);
        self.changed.send_replace(());
    }

    /// Live zones that have not applied `id`. A zone that was not heard of since this process started
    /// counts as live for as long as one that has just fallen silent.
    pub(super) fn behind(&self, id: u64, now: Instant) -> Vec<String> {
        let zones = self.zones.lock();
        let live = |zone: &Zone| now - zone.heard < SILENT_AFTER && zone.halted.is_empty();
        let behind = zones.iter().filter(|(_, zone)| zone.frontier < id && live(zone));
        let unheard = self.names.iter().filter(|name| !zones.contains_key(*name));
        let unheard = unheard.filter(|_| now - self.since < SILENT_AFTER);
        behind.map(|(name, _)| name).chain(unheard).cloned().collect()
    }

    /// Newest id that every zone keeps over a crash; `None` while one is unheard of.
    pub(super) fn flushed(&self) -> Option<u64> {
        let zones = self.zones.lock();
        self.names.iter().map(|name| zones.get(name).map(|zone| zone.flushed)).min().flatten()
    }

    /// Resolves when a report has come in since `receiver` last looked.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// All zones for status answers.
    pub(super) fn views(&self, now: Instant) -> Vec<ZoneView> {
        let zones = self.zones.lock();
        let view = |(name, zone): (&String, &Zone)| ZoneView {
            zone: name.clone(),
            frontier: zone.frontier,
            applier: zone.applier.clone(),
            halted: zone.halted.clone(),
            trouble: zone.trouble.clone(),
            silent_ms: u64::try_from((now - zone.heard).as_millis()).unwrap_or(u64::MAX),
        };
        zones.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{SILENT_AFTER, Zones};
    use crate::rpc::v1::ZoneReport;

    fn report(zone: &str, frontier: u64) -> ZoneReport {
        let (zone, node) = (zone.to_owned(), format!("{zone}-1"));
        ZoneReport {
            zone,
            node,
            is_applier: true,
            frontier,
            flushed: frontier,
            ..Default::default()
        }
    }

    fn zones_of(names: &[&str], since: Instant) -> Zones {
        Zones::new(names.iter().map(|name| (*name).to_owned()).collect(), since)
    }

    #[test]
    fn a_zone_not_yet_heard_of_is_waited_for_like_one_that_has_just_fallen_silent() {
        let now = Instant::now();
        let zones = zones_of(&["eu", "us"], now);
        zones.report(report("eu", 9), now);
        assert_eq!(zones.behind(4, now), ["us"]);
        assert!(zones.behind(4, now + SILENT_AFTER).is_empty());
    }

    #[test]
    fn a_silent_or_halted_zone_is_not_waited_for() {
        let now = Instant::now();
        let zones = zones_of(&[], now);
        zones.report(report("eu", 3), now);
        zones.report(report("us", 9), now);
        zones.report(ZoneReport { halted: "why".to_owned(), ..report("ap", 1) }, now);
        assert_eq!(zones.behind(4, now), ["eu"]);
        assert!(zones.behind(4, now + SILENT_AFTER).is_empty());
    }

    #[test]
    fn a_standby_speaks_for_its_zone_only_when_no_applier_does() {
        let now = Instant::now();
        let zones = zones_of(&[], now);
        zones.report(report("eu", 3), now);
        let trouble = "its own connection".to_owned();
        let standby = ZoneReport { is_applier: false, trouble, ..report("eu", 3) };
        zones.report(standby.clone(), now);
        assert_eq!(zones.views(now)[0].trouble, "");
        zones.report(standby, now + SILENT_AFTER * 2);
        assert_eq!(zones.views(now)[0].trouble, "its own connection");
    }

    #[test]
    fn nothing_counts_as_flushed_before_every_zone_was_heard_of() {
        let now = Instant::now();
        let zones = zones_of(&["eu", "us"], now);
        zones.report(report("eu", 3), now);
        assert_eq!(zones.flushed(), None);
        zones.report(report("us", 2), now);
        assert_eq!(zones.flushed(), Some(2));
    }
}
