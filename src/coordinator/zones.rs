//! What this coordinator has heard of the zones: how far each has applied, and when it last spoke.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::rpc::v1::{ZoneReport, ZoneView};

/// A zone not heard of for so long is not waited for.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Most zones remembered; reports of further ones are dropped.
const ZONES_MAX: usize = 256;

#[derive(Debug, Clone)]
struct Zone {
    frontier: u64,
    flushed: u64,
    applier: String,
    halted: String,
    heard: Instant,
}

/// All zones by name.
pub(super) struct Zones {
    zones: Mutex<BTreeMap<String, Zone>>,
    changed: watch::Sender<()>,
}

impl Zones {
    pub(super) fn new() -> Self {
        Self { zones: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Takes in a report. Standby nodes report too; only the applier's word counts for more than
    /// being alive.
    pub(super) fn report(&self, report: ZoneReport, now: Instant) {
        let mut zones = self.zones.lock();
        if zones.len() >= ZONES_MAX && !zones.contains_key(&report.zone) {
            return;
        }
        let zone = zones.entry(report.zone).or_insert_with(|| Zone {
            frontier: 0,
            flushed: 0,
            applier: String::new(),
            halted: String::new(),
            heard: now,
        });
        zone.heard = now;
        if report.is_applier {
            // A zone's frontier goes back when its database was restored: the report stands.
            zone.frontier = report.frontier;
            zone.flushed = report.flushed;
            zone.applier = report.node;
            zone.halted = report.halted;
        } else if !report.halted.is_empty() {
            zone.halted = report.halted;
        } else {
            zone.frontier = zone.frontier.max(report.frontier);
        }
        drop(zones);
        self.changed.send_replace(());
    }

    /// Live zones that have not applied `id`.
    pub(super) fn behind(&self, id: u64, now: Instant) -> Vec<String> {
        let zones = self.zones.lock();
        let live = |zone: &Zone| now - zone.heard < SILENT_AFTER && zone.halted.is_empty();
        let behind = zones.iter().filter(|(_, zone)| zone.frontier < id && live(zone));
        behind.map(|(name, _)| name.clone()).collect()
    }

    /// Newest id that every one of `names` keeps over a crash; `None` while one is unheard of.
    pub(super) fn flushed(&self, names: &[String]) -> Option<u64> {
        let zones = self.zones.lock();
        names.iter().map(|name| zones.get(name).map(|zone| zone.flushed)).min().flatten()
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

    #[test]
    fn a_silent_or_halted_zone_is_not_waited_for() {
        let (zones, now) = (Zones::new(), Instant::now());
        zones.report(report("eu", 3), now);
        zones.report(report("us", 9), now);
        zones.report(ZoneReport { halted: "why".to_owned(), ..report("ap", 1) }, now);
        assert_eq!(zones.behind(4, now), ["eu"]);
        assert!(zones.behind(4, now + SILENT_AFTER).is_empty());
    }

    #[test]
    fn nothing_counts_as_flushed_before_every_zone_was_heard_of() {
        let (zones, now) = (Zones::new(), Instant::now());
        let names = ["eu".to_owned(), "us".to_owned()];
        zones.report(report("eu", 3), now);
        assert_eq!(zones.flushed(&names), None);
        zones.report(report("us", 2), now);
        assert_eq!(zones.flushed(&names), Some(2));
    }
}
