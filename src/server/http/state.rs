//! State shared by the handlers of a node: its service, limits and memory budget, and whether it drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use pghc_runtime::telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use super::server::limits::Limits;
use super::server::memory_budget::MemoryBudget;
use crate::zone::Service;

/// State shared by all handlers.
pub(crate) type Shared = Arc<Api>;

/// The HTTP face of one node.
pub struct Api {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    pub(crate) room: Arc<MemoryBudget>,
    pub(crate) shutdown: CancellationToken,
    leaving: CancellationToken,
    pub(crate) openapi: Bytes,
    reports: AtomicU64,
    started: Instant,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("node", &self.service.identity().node).finish_non_exhaustive()
    }
}

impl Api {
    /// As [`Api::new`], with the text of `/openapi.json`, which is made of all handlers.
    pub(crate) fn with(
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
        limits: Limits,
        shutdown: CancellationToken,
        openapi: Bytes,
    ) -> Self {
        let (reports, started) = (AtomicU64::new(0), Instant::now());
        let (room, leaving) = (MemoryBudget::new(limits.request_bytes), CancellationToken::new());
        Self { service, metrics, limits, room, shutdown, leaving, openapi, reports, started }
    }

    /// Cancel it to shut down.
    #[must_use]
    pub fn shutdown_signal(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Cancel it some time before shutdown: `/readyz` says no from then on, and everything is served still,
    /// so that those who look there send their requests elsewhere before connections are refused.
    #[must_use]
    pub fn leaving_signal(&self) -> CancellationToken {
        self.leaving.clone()
    }

    /// Whether the node was told to end.
    pub(crate) fn leaves(&self) -> bool {
        self.leaving.is_cancelled() || self.shutdown.is_cancelled()
    }

    /// Logs that the database failed a request: once a second at most, since in an outage every
    /// request would say so.
    pub(crate) fn report_database(&self, error: &str) {
        let second = self.started.elapsed().as_secs() + 1;
        if self.reports.swap(second, Ordering::Relaxed) != second {
            tracing::warn!(error, "database failed a request");
        }
    }
}
