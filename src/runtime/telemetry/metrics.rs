//! Names and help texts of all metrics, except those of the HTTP layer.
//!
//! A name is `pghc_<module>_<noun>_<unit>`; labels come from small closed sets and are resolved when
//! the process starts, so that counting is an atomic add. Names are an interface: dashboards and
//! alarms stand on them.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::http::Http;
use super::instruments::{Add, BATCH_SIZES, IdGauge, STEP_SECONDS, WAIT_SECONDS, histogram};

/// Content type of [`Metrics::exposition`].
pub const EXPOSITION_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one process. Shared by `Arc`; a process registers only the groups it drives, and
/// the others may be set without effect.
#[derive(Debug)]
pub struct Metrics {
    /// HTTP face of an API node.
    pub http: Http,
    /// Submitting batches from an API node.
    pub submit: Submit,
    /// Applying in a zone.
    pub zone: Zone,
    /// Ordering in a coordinator.
    pub coordinator: Coordinator,
    registry: Registry,
}

/// Metrics of submitting.
#[derive(Debug)]
pub struct Submit {
    /// Writes waiting for a batch.
    pub queue_writes: IdGauge,
    /// Payload bytes waiting for a batch.
    pub queue_bytes: IdGauge,
    /// Writes in each batch sent.
    pub batch_writes: Histogram,
    /// From sending a batch to its outcomes.
    pub seconds: Histogram,
}

/// Metrics of a zone's applying.
#[derive(Debug)]
pub struct Zone {
    /// Newest id applied here.
    pub frontier_id: IdGauge,
    /// Committed ids not yet applied here.
    pub apply_lag_ids: IdGauge,
    /// Links in each apply transaction.
    pub apply_batch_links: Histogram,
    /// Time of each apply transaction.
    pub apply_batch_seconds: Histogram,
    /// Epoch this node knows for its zone.
    pub epoch: IdGauge,
    /// 1 while this node applies, else 0.
    pub is_applier: IdGauge,
    /// 1 while a node of the other zone in the label answers at the URL it advertises, else 0.
    pub can_read: Family<[(&'static str, String); 1], IdGauge>,
}

impl Zone {
    /// The gauge of whether `zone` can be read. The label is not `zone`: that is the scraped target's own.
    #[must_use]
    pub fn can_read_of(&self, zone: &str) -> IdGauge {
        self.can_read.get_or_create_owned(&[("of_zone", zone.to_owned())])
    }
}

/// Metrics of a coordinator.
#[derive(Debug)]
pub struct Coordinator {
    /// From a batch's arrival at the leader to its commit.
    pub commit_seconds: Histogram,
    /// Newest committed id.
    pub head_id: IdGauge,
    /// 1 while this coordinator leads, else 0.
    pub is_leader: IdGauge,
    /// Size of the log on disk.
    pub log_bytes: IdGauge,
    /// Free on the disk of the log.
    pub disk_free_bytes: IdGauge,
    /// 1 while that is below the reserve and no writes are taken, else 0.
    pub is_short_of_disk: IdGauge,
    /// Time of each flush of the log.
    pub flush_seconds: Histogram,
    /// Batches whose commit was learned, by source: [`Coordinator::commits_from_acks`] and
    /// [`Coordinator::commits_from_leader`].
    commits_learned: Family<[(&'static str, &'static str); 1], Counter>,
    /// 1 while acks of the others are counted, 0 while that is off or waits for the log to be readable.
    pub counts_acks: IdGauge,
    /// Vote requests withheld because the leader's longer timeouts have not passed.
    pub elections_deferred: Counter,
    /// Registered zones by state; the label's values are [`ZONE_STATES`].
    pub zones: Family<[(&'static str, &'static str); 1], IdGauge>,
    /// 1 for a registered zone that this log cannot feed any more, else 0.
    pub zone_detached: Family<[(&'static str, String); 1], IdGauge>,
}

impl Coordinator {
    /// Batches whose commit was learned from acks of a majority, before the leader reported it.
    #[must_use]
    pub fn commits_from_acks(&self) -> Counter {
        self.commits_learned.get_or_create_owned(&[("source", "quorum_acks")])
    }

    /// Batches whose commit was learned from the leader.
    #[must_use]
    pub fn commits_from_leader(&self) -> Counter {
        self.commits_learned.get_or_create_owned(&[("source", "leader")])
    }

    /// The gauge of whether `zone` is detached. The label is not `zone`: that is the scraped target's own.
    #[must_use]
    pub fn detached(&self, zone: &str) -> IdGauge {
        self.zone_detached.get_or_create_owned(&[("of_zone", zone.to_owned())])
    }

    /// The gauge of registered zones in the state with this number.
    ///
    /// # Panics
    /// If there is no such state.
    #[must_use]
    pub fn zones_in(&self, state: usize) -> IdGauge {
        self.zones.get_or_create_owned(&[("state", ZONE_STATES[state])])
    }
}

/// Values of the label `state` of registered zones, in the order of the contract's numbers.
pub const ZONE_STATES: [&str; 4] = ["live", "lagging", "detached", "reseeding"];

impl Metrics {
    /// Metrics of an API node. `routes` is the closed set of the route label; [`Http::answered`]
    /// takes a position in it.
    #[must_use]
    pub fn for_api_node(routes: &[&'static str]) -> Arc<Self> {
        let mut registry = Registry::default();
        let http = Http::register(routes, &mut registry);
        let metrics = Self { registry, http, ..Self::unregistered() };
        Arc::new(metrics.register(Self::register_zone))
    }

    /// Metrics of a coordinator.
    #[must_use]
    pub fn for_coordinator() -> Arc<Self> {
        Arc::new(Self::unregistered().register(Self::register_coordinator))
    }

    /// All metrics in OpenMetrics text form, of type [`EXPOSITION_TYPE`].
    #[must_use]
    pub fn exposition(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    fn unregistered() -> Self {
        Self {
            http: Http::register(&[], &mut Registry::default()),
            submit: Submit {
                queue_writes: IdGauge::default(),
                queue_bytes: IdGauge::default(),
                batch_writes: histogram(BATCH_SIZES),
                seconds: histogram(WAIT_SECONDS),
            },
            zone: Zone {
                frontier_id: IdGauge::default(),
                apply_lag_ids: IdGauge::default(),
                apply_batch_links: histogram(BATCH_SIZES),
                apply_batch_seconds: histogram(STEP_SECONDS),
                epoch: IdGauge::default(),
                is_applier: IdGauge::default(),
                can_read: Family::default(),
            },
            coordinator: Coordinator {
                commit_seconds: histogram(WAIT_SECONDS),
                head_id: IdGauge::default(),
                is_leader: IdGauge::default(),
                log_bytes: IdGauge::default(),
                disk_free_bytes: IdGauge::default(),
                is_short_of_disk: IdGauge::default(),
                flush_seconds: histogram(STEP_SECONDS),
                commits_learned: Family::default(),
                counts_acks: IdGauge::default(),
                elections_deferred: Counter::default(),
                zones: Family::default(),
                zone_detached: Family::default(),
            },
            registry: Registry::default(),
        }
    }

    fn register(mut self, group: impl Fn(&Self, &mut Registry)) -> Self {
        let mut registry = std::mem::take(&mut self.registry);
        group(&self, &mut registry);
        self.registry = registry;
        self
    }

    #[rustfmt::skip]
    fn register_zone(&self, registry: &mut Registry) {
        let mut add = Add(registry);
        let Submit { queue_writes, queue_bytes, batch_writes, seconds } = &self.submit;
        add.metric("pghc_submit_queue_writes", "Writes waiting for a batch", queue_writes);
        add.metric("pghc_submit_queue_bytes", "Payload bytes waiting for a batch", queue_bytes);
        add.metric("pghc_submit_batch_writes", "Writes in each batch sent to a coordinator", batch_writes);
        add.metric("pghc_submit_seconds", "Seconds from sending a batch to its outcomes", seconds);
        let zone = &self.zone;
        add.metric("pghc_zone_frontier_id", "Newest id applied in this zone", &zone.frontier_id);
        add.metric("pghc_zone_apply_lag_ids", "Committed ids this zone has not applied yet", &zone.apply_lag_ids);
        add.metric("pghc_zone_apply_batch_links", "Links in each apply transaction", &zone.apply_batch_links);
        add.metric("pghc_zone_apply_batch_seconds", "Seconds of each apply transaction", &zone.apply_batch_seconds);
        add.metric("pghc_zone_epoch", "Newest applier epoch this node knows for its zone", &zone.epoch);
        add.metric("pghc_zone_is_applier", "1 while this node applies for its zone, else 0", &zone.is_applier);
        add.metric("pghc_zone_can_read", "1 while this node can read the other zone at the URL it advertises, else 0", &zone.can_read);
    }

    #[rustfmt::skip]
    fn register_coordinator(&self, registry: &mut Registry) {
        let mut add = Add(registry);
        let Coordinator { commit_seconds, head_id, is_leader, log_bytes, disk_free_bytes, is_short_of_disk, flush_seconds, .. } = &self.coordinator;
        add.metric("pghc_coordinator_commit_seconds", "Seconds from a batch's arrival at the leader to its commit", commit_seconds);
        add.metric("pghc_coordinator_head_id", "Newest committed id", head_id);
        add.metric("pghc_coordinator_is_leader", "1 while this coordinator leads, else 0", is_leader);
        add.metric("pghc_coordinator_log_bytes", "Bytes of the log on disk", log_bytes);
        add.metric("pghc_coordinator_disk_free_bytes", "Bytes free on the disk of the log", disk_free_bytes);
        add.metric("pghc_coordinator_disk_short", "1 while the disk is below its reserve and writes are refused", is_short_of_disk);
        add.metric("pghc_coordinator_flush_seconds", "Seconds of each flush of the log to disk", flush_seconds);
        add.metric("pghc_coordinator_commits_learned", "Batches whose commit was learned: from acks of a majority (quorum_acks) or, where that is later, from the leader", &self.coordinator.commits_learned);
        add.metric("pghc_coordinator_counts_acks", "1 while acks of other coordinators are counted, 0 while disabled or the log cannot be read", &self.coordinator.counts_acks);
        add.metric("pghc_coordinator_elections_deferred", "Vote requests withheld because the leader's longer timeouts have not passed", &self.coordinator.elections_deferred);
        let zones = &self.coordinator.zones;
        // A series exists from its first use on, and a counter that is absent cannot be told from zero.
        self.coordinator.commits_from_acks().inc_by(0);
        self.coordinator.commits_from_leader().inc_by(0);
        for state in 0..ZONE_STATES.len() {
            self.coordinator.zones_in(state).set(0);
        }
        add.metric("pghc_coordinator_zones", "Registered zones, by whether this coordinator's log reaches back to them", zones);
        add.metric("pghc_coordinator_zone_detached", "1 for a registered zone that needs links purged from this coordinator's log, else 0", &self.coordinator.zone_detached);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Metrics;
    use crate::telemetry::WriteEnd;

    #[test]
    fn role_exports_only_its_own_metrics() {
        let node = Metrics::for_api_node(&["/ping", "other"]);
        node.http.answered(0, 200, Duration::from_millis(3));
        node.http.ended(WriteEnd::Repeated, 2);
        node.zone.frontier_id.set(7);
        let text = node.exposition();
        for line in [
            "pghc_http_requests_total{route=\"/ping\",status=\"2xx\"} 1",
            "pghc_http_request_seconds_count{route=\"/ping\"} 1",
            "pghc_http_writes_answered_total{outcome=\"repeated\"} 2",
            "pghc_zone_frontier_id 7",
            "pghc_submit_batch_writes_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("pghc_coordinator"));
        let coordinator = Metrics::for_coordinator().exposition();
        assert!(coordinator.contains("pghc_coordinator_flush_seconds_bucket"));
        assert!(
            coordinator.contains("pghc_coordinator_commits_learned_total{source=\"leader\"} 0")
        );
        assert!(coordinator.contains("pghc_coordinator_zones{state=\"detached\"} 0"));
        assert!(!coordinator.contains("pghc_zone") && !coordinator.contains("pghc_http"));
    }
}
