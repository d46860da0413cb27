//! The newest answer of each coordinator to this node's reports: the cluster as that coordinator knows it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::ZoneName;
use pghc_runtime::rpc::v1::{Cluster, ZoneReport, ZoneView};
use tokio::time::Instant;

use crate::zone::coordinators::Coordinators;

/// Longest wait for an answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Time a coordinator's head may stand still while others advance, before it is not asked.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// Lead in time of another coordinator's answer, above which the older answer is ignored.
const NEWER_BY: Duration = Duration::from_secs(2);

/// Silence after which a zone is no source, in ms.
const SOURCE_SILENT_MS: u64 = 5_000;

#[derive(Clone)]
struct View {
    cluster: Cluster,
    /// When its head last moved.
    moved: Instant,
    /// When the coordinator answered.
    heard: Instant,
}

/// The newest answer of each coordinator, by place.
pub(crate) struct Views {
    views: Mutex<Vec<Option<View>>>,
}

/// A zone whose chain may be read over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name.
    pub(crate) zone: String,
    /// Address of an API node there.
    pub(crate) url: String,
    /// Newest id applied there.
    pub(crate) frontier: u64,
}

impl Source {
    fn of(zone: ZoneView) -> Self {
        Self { zone: zone.zone, url: zone.api_url, frontier: zone.frontier }
    }
}

impl Views {
    /// No coordinator has answered yet.
    pub(crate) fn new(coordinators: usize) -> Self {
        Self { views: Mutex::new(vec![None; coordinators]) }
    }

    /// Asks every coordinator once, without a report.
    pub(crate) async fn ask(coordinators: &Coordinators) -> Self {
        let views = Self::new(coordinators.count());
        for place in 0..coordinators.count() {
            let mut request = tonic::Request::new(ZoneReport::default());
            request.set_timeout(ANSWER_MAX);
            let mut client = coordinators.client(place);
            let answer = tokio::time::timeout(ANSWER_MAX, client.report(request)).await;
            if let Ok(Ok(cluster)) = answer {
                views.take(place, cluster.into_inner(), Instant::now());
            }
        }
        views
    }

    /// The other zones that are well and have told where they may be read, nearest first: in the
    /// order of the coordinators, those without one last.
    pub(crate) fn sources(&self, own: &ZoneName) -> Vec<Source> {
        let views = self.views.lock();
        let place_of = |zone: &str| {
            let stands_in = |view: &Option<View>| {
                view.as_ref().is_some_and(|View { cluster, .. }| {
                    let id = cluster.coordinator_id;
                    cluster.members.iter().any(|m| m.coordinator_id == id && m.zone == zone)
                })
            };
            views.iter().position(stands_in).unwrap_or(usize::MAX)
        };
        let mut newest: BTreeMap<String, ZoneView> = BTreeMap::new();
        for zone in views.iter().flatten().flat_map(|view| &view.cluster.zones) {
            let known = newest.get(&zone.zone);
            if known.is_none_or(|known| zone.silent_ms < known.silent_ms) {
                newest.insert(zone.zone.clone(), zone.clone());
            }
        }
        let is_source = |zone: &ZoneView| {
            let is_well = zone.halted.is_empty() && zone.degraded_reason.is_empty();
            is_well
                && zone.silent_ms < SOURCE_SILENT_MS
                && !zone.api_url.is_empty()
                && zone.zone != own.as_str()
        };
        let mut sources: Vec<ZoneView> = newest.into_values().filter(is_source).collect();
        sources.sort_by_key(|zone| place_of(&zone.zone));
        sources.into_iter().map(Source::of).collect()
    }

    /// The other zones whose applier reports, halted ones too, with the URL that it advertises: empty when it
    /// advertises none. In the order of their names.
    pub(crate) fn advertised(&self, own: &ZoneName) -> Vec<Source> {
        let views = self.views.lock();
        let mut newest: BTreeMap<&str, &ZoneView> = BTreeMap::new();
        for zone in views.iter().flatten().flat_map(|view| &view.cluster.zones) {
            let known = newest.entry(&zone.zone).or_insert(zone);
            if zone.silent_ms < known.silent_ms {
                *known = zone;
            }
        }
        let reports = |zone: &&ZoneView| {
            let speaks = !zone.applier.is_empty() && zone.silent_ms < SOURCE_SILENT_MS;
            speaks && zone.zone != own.as_str()
        };
        newest.into_values().filter(reports).cloned().map(Source::of).collect()
    }

    /// First id that a coordinator's log can serve, the smallest there is; `None` when none says.
    pub(crate) fn log_first(&self) -> Option<u64> {
        let views = self.views.lock();
        let firsts = views.iter().flatten().map(|view| view.cluster.log_first_id);
        firsts.filter(|first| *first != 0).min()
    }

    /// The answer of the coordinator in place `place`.
    pub(crate) fn of(&self, place: usize) -> Option<Cluster> {
        self.views.lock()[place].as_ref().map(|view| view.cluster.clone())
    }

    /// The answer of the coordinator in place `place`, or of another that answered a second or more later; and
    /// when it came.
    pub(crate) fn newest(&self, place: usize) -> Option<(Cluster, Instant)> {
        let views = self.views.lock();
        let newest = views.iter().flatten().max_by_key(|view| view.heard)?;
        let own = views[place].as_ref().filter(|own| newest.heard - own.heard < NEWER_BY);
        let view = own.unwrap_or(newest);
        Some((view.cluster.clone(), view.heard))
    }

    /// Newest committed id any coordinator has told of.
    pub(crate) fn head(&self) -> u64 {
        let heads = self.views.lock();
        heads.iter().flatten().map(|view| view.cluster.head).max().unwrap_or_default()
    }

    /// Takes in an answer; whether the coordinator keeps up with the others.
    pub(crate) fn take(&self, place: usize, cluster: Cluster, now: Instant) -> bool {
        let mut views = self.views.lock();
        let newest = views.iter().flatten().map(|v| v.cluster.head).max().unwrap_or_default();
        let unmoved = |view: &&View| view.cluster.head == cluster.head;
        let moved = views[place].as_ref().filter(unmoved).map_or(now, |view| view.moved);
        let keeps_up = cluster.head >= newest || now - moved < STALE_AFTER;
        views[place] = Some(View { cluster, moved, heard: now });
        keeps_up
    }
}

#[cfg(test)]
mod tests {
    use pghc_runtime::rpc::v1::Cluster;
    use tokio::time::Instant;

    use super::{STALE_AFTER, Views};

    #[test]
    fn coordinator_whose_head_stands_still_does_not_keep_up() {
        let views = Views::new(2);
        let at = |head| Cluster { head, ..Cluster::default() };
        let start = Instant::now();
        assert!(views.take(0, at(5), start) && views.take(1, at(5), start));
        let later = start + STALE_AFTER;
        assert!(views.take(0, at(5), later), "nobody went on");
        assert!(views.take(1, at(9), later));
        assert!(!views.take(0, at(5), later));
        assert!(views.take(0, at(6), later), "it moves again");
        assert_eq!(views.head(), 9);
    }
}
