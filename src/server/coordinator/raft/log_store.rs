//! openraft's log storage on the durable log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::task::fair_watch;
use pghc_runtime::telemetry::Metrics;
use tokio::sync::oneshot;

use crate::coordinator::consensus::codec::{decode, encode};
use crate::coordinator::consensus::type_config::{Entry, LogId, TypeConfig, Vote};
use crate::coordinator::log::{Log, Record};
use crate::coordinator::quorum_acks::progress::ReplicationProgress;

/// Bytes of entries read for one append message; several are in flight at a time.
const READ_BYTES_MAX: usize = 1 << 20;

/// Indexes and bytes of the entries in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
}

impl Extent {
    /// Returns the last index of the oldest entries whose purge leaves about `keep` bytes; the
    /// index before the first if nothing exceeds `keep`. Assumes entries of equal size.
    pub(crate) fn excess(&self, keep: u64) -> u64 {
        let entries = u128::from(self.last - self.first + 1);
        let excess = u128::from(self.bytes.saturating_sub(keep));
        let count = entries * excess / u128::from(self.bytes.max(1));
        (self.first + u64::try_from(count).unwrap_or_default()).saturating_sub(1)
    }
}

/// Handle to the log; clones share the log.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    metrics: Arc<Metrics>,
    acks: ReplicationProgress,
    /// Index of the newest entry given to the log since it was opened.
    appended: fair_watch::Sender<u64>,
}

impl LogStore {
    /// Publishes durable positions on `acks`: the opened log's, then each flush's.
    ///
    /// # Errors
    /// If the log is not readable.
    pub(crate) fn new(
        log: Log,
        metrics: Arc<Metrics>,
        acks: ReplicationProgress,
    ) -> io::Result<Self> {
        let store = Self { log, metrics, acks, appended: fair_watch::Sender::new(0) };
        store.acks.on_open(store.vote()?, store.last()?);
        Ok(store)
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        self.log.state().vote.as_deref().map(decode).transpose()
    }

    /// Returns the newest entry; `None` for an empty log.
    fn last(&self) -> io::Result<Option<LogId>> {
        let Some(last) = self.log.state().last else { return Ok(None) };
        Ok(self.read(last, last + 1, usize::MAX)?.pop().map(|entry| entry.log_id))
    }

    /// Returns the index after the newest entry, durable or not.
    pub(crate) fn next(&self) -> u64 {
        let state = self.log.state();
        let last = state.last.or(state.purged.map(|(purged, _)| purged));
        last.map_or(0, |last| last + 1)
    }

    /// Reads entries of `start..end`: at least one if the first exists, about `bytes_max` bytes.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.log.read(start..end, bytes_max)?.iter().map(|record| decode(&record.body)).collect()
    }

    /// Returns the extent of the log; `None` for an empty one.
    pub(crate) fn extent(&self) -> Option<Extent> {
        let state = self.log.state();
        let (first, last) = (state.first?, state.last?);
        Some(Extent { first, last, bytes: state.bytes_on_disk })
    }

    /// Returns the index of the newest entry given to the log, and its changes; 0 before the first
    /// since it was opened.
    pub(crate) fn appended(&self) -> fair_watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Returns the index of the oldest entry that is or could be in the log.
    pub(crate) fn first(&self) -> u64 {
        let state = self.log.state();
        state.first.unwrap_or_else(|| state.purged.map_or(0, |(purged, _)| purged + 1))
    }

    /// Resolves when everything given to the log so far is durable.
    pub(crate) async fn flushed(&self) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        let notify = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.log.append(Vec::new(), notify)?;
        done.await.map_err(|_| io::Error::other("the log was closed"))?
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_new(&self) -> bool {
        let state = self.log.state();
        state.last.is_none() && state.purged.is_none() && state.vote.is_none()
    }

    /// Returns the bytes that the log takes on disk.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.log.state().bytes_on_disk
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let state = self.log.state();
        let (Some(first), Some(last)) = (state.first, state.last) else {
            return Ok(Vec::new());
        };
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => first,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => last + 1,
        };
        let (start, end) = (start.max(first), end.min(last + 1));
        if start >= end {
            return Ok(Vec::new());
        }
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.vote()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        let last_purged_log_id: Option<LogId> =
            state.purged.map(|(_, mark)| decode(&mark)).transpose()?;
        Ok(LogState { last_log_id: self.last()?.or(last_purged_log_id), last_purged_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if mutation::is_active(Mutant::VoteNotPersisted) {
            return Ok(());
        }
        let (sender, done) = oneshot::channel();
        let notify = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.log.set_vote(encode(vote), notify)?;
        self.acks.on_vote(vote);
        done.await.map_err(|_| io::Error::other("the log was closed"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.set_committed(encode(&committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.state().committed.as_deref().map_or(Ok(None), decode)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut first, mut last) = (None, None);
        let record = |entry: Entry| {
            first.get_or_insert(entry.log_id.index());
            last = Some(entry.log_id);
            Record { index: entry.log_id.index(), body: encode(&entry) }
        };
        let records = entries.into_iter().map(record).collect();
        if mutation::is_active(Mutant::AckBeforeSync) {
            callback.io_completed(Ok(()));
            self.log.append(records, Box::new(|_| {}))?;
            self.appended.send_replace(last.map_or(0, |last| last.index));
            return Ok(());
        }
        let (metrics, started) = (Arc::clone(&self.metrics), Instant::now());
        let (acks, ack) = (self.acks.clone(), last.and_then(|last| self.acks.when_durable(&last)));
        let done = move |result: io::Result<()>| {
            metrics.coordinator.flush_seconds.observe(started.elapsed().as_secs_f64());
            if let Some(ack) = ack.filter(|_| result.is_ok()) {
                acks.on_durable(ack);
            }
            callback.io_completed(result);
        };
        self.log.append(records, Box::new(done))?;
        if let Some(first) = first {
            self.acks.on_append(first);
        }
        if let Some(last) = last {
            self.appended.send_replace(last.index);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last_log_id.map(|log_id| log_id.index()))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.log.purge_to(log_id.index(), encode(&log_id))
    }
}
