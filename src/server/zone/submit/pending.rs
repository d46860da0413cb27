//! Requests that wait for their order, and their share of the node's bounded queue.

use std::sync::Arc;

use bytes::Bytes;
use pghc_api::limits::{
    BATCH_BYTES_MAX, BATCH_WRITES_MAX, SUBMIT_QUEUE_BYTES_MAX, SUBMIT_QUEUE_MAX,
};
use pghc_runtime::telemetry::Metrics;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batcher::Weigh;
use crate::sequencer::Write;
use crate::zone::{NewWrite, OrderResult, SubmitError};

/// The writes of one request, or of a part of it that fits a batch. They stay together in one batch.
pub(super) struct PendingRequest {
    pub(super) writes: Vec<Write>,
    pub(super) bytes: usize,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Vec<OrderResult>, SubmitError>>,
    /// Released when the request is answered or dropped, however long its client waited.
    pub(super) _permit: QueuePermit,
}

impl Weigh for PendingRequest {
    fn writes(&self) -> usize {
        self.writes.len()
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A request's share of the writes that wait or are in flight. The gauges themselves keep the count.
pub(super) struct QueuePermit {
    metrics: Arc<Metrics>,
    writes: u64,
    bytes: u64,
}

impl QueuePermit {
    /// Takes room for a request.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] beyond the limits of writes and bytes.
    pub(super) fn take(
        metrics: &Arc<Metrics>,
        writes: usize,
        bytes: usize,
    ) -> Result<Self, SubmitError> {
        let permit =
            Self { metrics: Arc::clone(metrics), writes: writes as u64, bytes: bytes as u64 };
        let queued = metrics.submit.queue_writes.inc_by(permit.writes) + permit.writes;
        let queued_bytes = metrics.submit.queue_bytes.inc_by(permit.bytes) + permit.bytes;
        let is_full =
            queued > SUBMIT_QUEUE_MAX as u64 || queued_bytes > SUBMIT_QUEUE_BYTES_MAX as u64;
        if is_full { Err(SubmitError::Overloaded) } else { Ok(permit) }
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.metrics.submit.queue_writes.dec_by(self.writes);
        self.metrics.submit.queue_bytes.dec_by(self.bytes);
    }
}

/// Bytes of a write's key and payload.
pub(super) fn weight(write: &Write) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    length(&write.key) + length(&write.payload)
}

/// Splits the writes of a request into parts that fit a batch each.
pub(super) fn split(writes: Vec<NewWrite>) -> Vec<Vec<Write>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let key = write.key.map(|key| Bytes::copy_from_slice(key.as_str().as_bytes()));
        let write = Write { key, payload: write.payload };
        bytes += weight(&write);
        let is_full = part.len() == BATCH_WRITES_MAX || bytes > BATCH_BYTES_MAX;
        if is_full && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = weight(&write);
        }
        part.push(write);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}
