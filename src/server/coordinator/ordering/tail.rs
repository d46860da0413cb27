//! Tails: streams of committed batches after an id, from memory or recomputed from the log.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use pghc_api::chain::{Digest, Head};
use pghc_api::id::ClusterId;
use pghc_api::limits::TAIL_QUEUE_BYTES_MAX;
use pghc_runtime::rpc::v1::TailBatch;
use pghc_runtime::task::{Tasks, blocking};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use crate::coordinator::consensus::type_config::Entry;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::{LinkLocation, SequencerDriver, TailStep, tail_batch};
use crate::sequencer::{Position, extend};

/// Batches queued for one reader, besides [`TAIL_QUEUE_BYTES_MAX`]; HTTP/2 windows bound the bytes
/// on the wire. Further batches stay in the log.
const QUEUE_BATCHES: usize = 64;

/// Bytes of one log read.
const READ_BYTES: usize = 1 << 20;

/// Serves tails.
#[derive(Clone)]
pub(crate) struct Tails {
    pub(crate) cluster: ClusterId,
    pub(crate) driver: Arc<SequencerDriver>,
    pub(crate) log: LogStore,
    pub(crate) tasks: Tasks,
}

impl Tails {
    /// Opens a stream of the batches above `after_id`. The stream ends with its reader or the
    /// process, or with `OUT_OF_RANGE` if the log was purged beyond `after_id`.
    pub(crate) fn open(
        &self,
        after_id: u64,
    ) -> impl Stream<Item = Result<TailBatch, Status>> + use<> {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let out = TailQueue { sender, free_bytes: Arc::new(Semaphore::new(TAIL_QUEUE_BYTES_MAX)) };
        let tails = self.clone();
        self.tasks.spawn("tail", async move {
            if let Err(status) = tails.run(after_id, &out).await {
                let _ = out.sender.send((Err(status), None)).await;
            }
        });
        // Taking a batch from the queue frees its bytes.
        tokio_stream::wrappers::ReceiverStream::new(receiver).map(|(message, _place)| message)
    }

    /// Returns the newest known link at or below `id`, with its digest.
    ///
    /// This is link `id` itself if the marks or the log hold it, and the head if `id` is above the
    /// head. The search uses memory, then at most 1 MiB or 256 entries of the log.
    ///
    /// # Errors
    /// `INTERNAL` if the log is not readable.
    pub(crate) async fn vouch(&self, id: u64) -> Result<Option<(u64, Digest)>, Status> {
        match self.driver.find(id) {
            LinkLocation::Link(digest) => return Ok(Some((id, digest))),
            LinkLocation::Log(start) => {
                if let Some(head) = self.compute(start, id).await? {
                    return Ok(Some((id, head.digest)));
                }
            }
            LinkLocation::Above | LinkLocation::Forgotten => {}
        }
        Ok(self.driver.mark(id))
    }

    /// Whether link `id` has the digest `expected`. Also true if the link is unknown here; the
    /// reader then compares the marks.
    ///
    /// # Errors
    /// `INTERNAL` if the log is not readable; `DATA_LOSS` is reserved for a reader with another
    /// chain.
    pub(crate) async fn matches_chain(&self, id: u64, expected: &[u8]) -> Result<bool, Status> {
        let known = self.vouch(id).await?.filter(|(known, _)| *known == id);
        Ok(known.is_none_or(|(_, digest)| expected == digest.0))
    }

    /// Computes link `id` from the log; `None` if the log was purged meanwhile.
    async fn compute(&self, start: Position, id: u64) -> Result<Option<Head>, Status> {
        let Position { mut index, mut head } = start;
        loop {
            let entries = self.read(index, u64::MAX).await?;
            if entries.first().is_none_or(|entry| entry.log_id.index() != index) {
                return Ok(None);
            }
            for entry in entries {
                index = entry.log_id.index() + 1;
                match self.extend(&mut head, entry, id) {
                    Err(status) if status.code() == tonic::Code::OutOfRange => return Ok(None),
                    Err(status) => return Err(status),
                    Ok(_) if head.is_some_and(|head| head.id.get() >= id) => return Ok(head),
                    Ok(_) => {}
                }
            }
        }
    }

    /// Reads entries in `index..end`, about [`READ_BYTES`] of them.
    async fn read(&self, index: u64, end: u64) -> Result<Vec<Entry>, Status> {
        let log = self.log.clone();
        let read = move || log.read(index, end, READ_BYTES);
        let entries = blocking(read).await.flatten();
        entries.map_err(|error| Status::internal(format!("the log is not readable: {error}")))
    }

    async fn run(&self, mut after_id: u64, out: &TailQueue) -> Result<(), Status> {
        let mut head_id = self.driver.head_id();
        loop {
            head_id.borrow_and_update();
            match self.driver.next(after_id) {
                TailStep::Batches(batches) if batches.is_empty() => {
                    tokio::select! {
                        biased;
                        () = out.sender.closed() => return Ok(()),
                        _ = head_id.changed() => {}
                    }
                }
                TailStep::Batches(batches) => {
                    for batch in batches {
                        after_id = batch.last_id;
                        if out.send(batch).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                TailStep::Log(start, last) => {
                    after_id = self.replay(start, last, after_id, out).await?;
                }
                TailStep::Purged => return Err(purged(after_id)),
            }
        }
    }

    /// Sends the log from `start` to index `last`; returns the last id sent.
    async fn replay(
        &self,
        start: Position,
        last: u64,
        mut after_id: u64,
        out: &TailQueue,
    ) -> Result<u64, Status> {
        let Position { mut index, mut head } = start;
        while index <= last {
            let entries = self.read(index, last + 1).await?;
            if entries.first().is_none_or(|entry| entry.log_id.index() != index) {
                return Err(purged(after_id));
            }
            for entry in entries {
                index = entry.log_id.index() + 1;
                let before = head;
                let Some(batch) = self.extend(&mut head, entry, u64::MAX)? else { continue };
                if head == before || head.is_none_or(|head| head.id.get() <= after_id) {
                    continue;
                }
                after_id = batch.last_id;
                if out.send(batch).await.is_err() {
                    return Ok(after_id);
                }
            }
        }
        Ok(after_id)
    }

    /// Advances `head` over an entry, up to link `until`; returns its batch if it holds a link.
    fn extend(
        &self,
        head: &mut Option<Head>,
        entry: Entry,
        until: u64,
    ) -> Result<Option<TailBatch>, Status> {
        let openraft::EntryPayload::Normal(proposal) = entry.payload else { return Ok(None) };
        let index = entry.log_id.index();
        let after_id = head.map_or(0, |head| head.id.get());
        let recalled = self.driver.recall(index).ok_or_else(|| purged(after_id))?;
        if recalled.head_before.is_some_and(|before| before != *head) {
            return Err(Status::internal(format!(
                "the log up to entry {index} does not give the chain that was sequenced"
            )));
        }
        let skipped_positions = recalled.skipped_positions;
        let extended = extend(&self.cluster, *head, proposal.0, &skipped_positions, until)
            .map_err(|error| Status::internal(format!("entry {index}: {error}")))?;
        let Some((bytes, after)) = extended else { return Ok(None) };
        let first_id = head.map_or(1, |head| head.id.get() + 1);
        *head = after;
        Ok(after.map(|after| tail_batch(index, first_id, after, bytes, skipped_positions)))
    }
}

fn purged(after_id: u64) -> Status {
    Status::out_of_range(format!(
        "the log of this coordinator no longer holds id {}; try another coordinator, or backfill the \
         zone from another zone",
        after_id + 1
    ))
}

type Message = (Result<TailBatch, Status>, Option<OwnedSemaphorePermit>);

/// Queue to one reader.
struct TailQueue {
    sender: mpsc::Sender<Message>,
    /// Bytes that may still be queued.
    free_bytes: Arc<Semaphore>,
}

/// The reader has gone.
struct ReaderGone;

impl TailQueue {
    /// Queues a batch when there is space; a batch above the limit takes the whole of it.
    async fn send(&self, batch: TailBatch) -> Result<(), ReaderGone> {
        let bytes = batch.batch.len().min(TAIL_QUEUE_BYTES_MAX);
        let bytes = u32::try_from(bytes).expect("a mebibyte at most");
        let free_bytes = Arc::clone(&self.free_bytes).acquire_many_owned(bytes);
        let place = tokio::select! {
            biased;
            () = self.sender.closed() => return Err(ReaderGone),
            place = free_bytes => place.map_err(|_| ReaderGone)?,
        };
        self.sender.send((Ok(batch), Some(place))).await.map_err(|_| ReaderGone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use pghc_runtime::rpc::v1::TailBatch;
    use tokio::sync::{Semaphore, mpsc};

    use super::{QUEUE_BATCHES, TAIL_QUEUE_BYTES_MAX, TailQueue};

    fn batch(bytes: usize) -> TailBatch {
        TailBatch { batch: vec![0; bytes].into(), ..TailBatch::default() }
    }

    #[tokio::test]
    async fn slow_reader_queue_is_bounded_in_bytes() {
        let (sender, mut receiver) = mpsc::channel(QUEUE_BATCHES);
        let out = TailQueue { sender, free_bytes: Arc::new(Semaphore::new(TAIL_QUEUE_BYTES_MAX)) };
        let half = TAIL_QUEUE_BYTES_MAX / 2;
        for _ in 0..2 {
            assert!(out.send(batch(half)).now_or_never().is_some_and(|sent| sent.is_ok()));
        }
        let third = out.send(batch(half));
        tokio::pin!(third);
        assert!(third.as_mut().now_or_never().is_none(), "there is no room");
        drop(receiver.recv().await);
        assert!(third.await.is_ok());
        drop((receiver.recv().await, receiver.recv().await));
        let large = out.send(batch(TAIL_QUEUE_BYTES_MAX * 3));
        assert!(large.now_or_never().is_some_and(|sent| sent.is_ok()), "it travels alone");
        let next = out.send(batch(1));
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        drop(receiver);
        assert!(next.await.is_err(), "the reader has gone");
    }
}
