//! Metrics of the HTTP face: names, help texts and labels.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::instruments::{Add, IdGauge, WAIT_SECONDS, histogram};

/// Metrics of the HTTP face.
#[derive(Debug)]
pub struct Http {
    routes: Vec<Route>,
    /// Connections open now.
    pub connections_open: IdGauge,
    /// Connections closed because too many were open: idle ones, else the newest.
    pub connections_refused: Counter,
    /// Writes handed over to be ordered.
    pub writes_submitted: Counter,
    ends: [Counter; WriteEnd::ALL.len()],
}

/// Metrics of one route.
#[derive(Debug)]
pub struct Route {
    by_class: [Counter; 5],
    seconds: Histogram,
}

/// How a submitted write was answered by the coordinators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEnd {
    /// A new link.
    Ordered,
    /// The key had been ordered before.
    Repeated,
    /// The key had been used for another payload.
    KeyReused,
    /// Refused: the queue was full.
    Overloaded,
    /// Refused: shutting down.
    Draining,
    /// No leader in time.
    NoLeader,
    /// The request's time limit passed before anything was handed over.
    TimeLimit,
    /// Refused: the leader's disk is nearly full.
    NoSpace,
    /// No answer in time.
    Unknown,
    /// Refused: the zone has halted.
    Halted,
    /// Refused: the coordinators do not take this node for one of its zone's.
    NotReady,
}

impl Http {
    #[rustfmt::skip]
    pub(super) fn register(names: &[&'static str], registry: &mut Registry) -> Self {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let requests = Family::<[(&str, &str); 2], Counter>::default();
        let seconds = Family::<[(&str, &str); 1], Histogram>::new_with_constructor(|| histogram(WAIT_SECONDS));
        let ends = Family::<[(&str, &str); 1], Counter>::default();
        let http = Self {
            routes: names
                .iter()
                .map(|name| Route {
                    by_class: CLASSES.map(|class| requests.get_or_create_owned(&[("route", *name), ("status", class)])),
                    seconds: seconds.get_or_create_owned(&[("route", *name)]),
                })
                .collect(),
            connections_open: IdGauge::default(),
            connections_refused: Counter::default(),
            writes_submitted: Counter::default(),
            ends: WriteEnd::ALL.map(|end| ends.get_or_create_owned(&[("outcome", end.label())])),
        };
        let mut add = Add(registry);
        add.metric("pghc_http_requests", "Requests answered, by route and class of status", &requests);
        add.metric("pghc_http_request_seconds", "Seconds from a request's headers to its answer's headers", &seconds);
        add.metric("pghc_http_connections_open", "Connections open now", &http.connections_open);
        add.metric("pghc_http_connections_refused", "Connections closed because too many were open: idle ones, else the newest", &http.connections_refused);
        add.metric("pghc_http_writes_submitted", "Writes handed over to be ordered", &http.writes_submitted);
        add.metric("pghc_http_writes_answered", "Outcomes of writes handed over", &ends);
        http
    }

    /// Counts an answer of the route that is `route`-th of the set.
    ///
    /// # Panics
    /// If the set has no such route, which is a bug of the caller.
    pub fn answered(&self, route: usize, status: u16, took: Duration) {
        let route = &self.routes[route];
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        route.by_class[class].inc();
        route.seconds.observe(took.as_secs_f64());
    }

    /// Counts `writes` writes that ended this way.
    pub fn ended(&self, end: WriteEnd, writes: usize) {
        self.ends[end as usize].inc_by(writes as u64);
    }
}

impl WriteEnd {
    const ALL: [Self; 11] = [
        Self::Ordered,
        Self::Repeated,
        Self::KeyReused,
        Self::Overloaded,
        Self::Draining,
        Self::NoLeader,
        Self::TimeLimit,
        Self::NoSpace,
        Self::Unknown,
        Self::Halted,
        Self::NotReady,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Repeated => "repeated",
            Self::KeyReused => "key_reused",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::NoLeader => "no_leader",
            Self::TimeLimit => "time_limit",
            Self::NoSpace => "no_space",
            Self::Unknown => "unknown",
            Self::Halted => "halted",
            Self::NotReady => "not_ready",
        }
    }
}
