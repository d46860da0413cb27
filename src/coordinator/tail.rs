//! The tail: committed batches after an id, from memory while the reader keeps up, else computed
//! again from the log.

use std::sync::Arc;

use futures::Stream;
use pghc_api::id::ClusterId;
use tokio::sync::mpsc;
use tonic::Status;

use super::log_store::LogStore;
use super::sequencing::{Next, Sequencing, tail_batch};
use super::type_config::Entry;
use crate::rpc::v1::TailBatch;
use crate::sequencer::{Position, extend};
use crate::task::Tasks;

/// Batches on their way to one reader; HTTP/2 windows bound what is on the wire.
const QUEUE_BATCHES: usize = 64;

/// Bytes of log read at a time.
const READ_BYTES: usize = 1 << 20;

/// Serves tails.
#[derive(Clone)]
pub(super) struct Tails {
    pub(super) cluster: ClusterId,
    pub(super) sequencing: Arc<Sequencing>,
    pub(super) log: LogStore,
    pub(super) tasks: Tasks,
}

impl Tails {
    /// A stream of the batches that hold ids above `after_id`. Ends when the reader goes away, the
    /// process shuts down, or with `OUT_OF_RANGE` when the log was purged beyond `after_id`.
    pub(super) fn open(
        &self,
        after_id: u64,
    ) -> impl Stream<Item = Result<TailBatch, Status>> + use<> {
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let tails = self.clone();
        self.tasks.spawn("tail", async move {
            if let Err(status) = tails.run(after_id, &sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        tokio_stream::wrappers::ReceiverStream::new(receiver)
    }

    async fn run(&self, mut after_id: u64, out: &Out) -> Result<(), Status> {
        let mut head_id = self.sequencing.head_id();
        loop {
            head_id.borrow_and_update();
            match self.sequencing.next(after_id) {
                Next::Batches(batches) if batches.is_empty() => {
                    tokio::select! {
                        _ = head_id.changed() => {}
                        () = out.closed() => return Ok(()),
                    }
                }
                Next::Batches(batches) => {
                    for batch in batches {
                        after_id = batch.last_id;
                        if out.send(Ok(batch)).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Next::Log(start, last) => {
                    after_id = self.replay(start, last, after_id, out).await?;
                }
                Next::Purged => return Err(purged(after_id)),
            }
        }
    }

    /// Sends what the log holds from `start` to index `last`; answers the last id sent.
    async fn replay(
        &self,
        start: Position,
        last: u64,
        mut after_id: u64,
        out: &Out,
    ) -> Result<u64, Status> {
        let Position { mut index, mut head } = start;
        while index <= last {
            let log = self.log.clone();
            let read = move || log.read(index, last + 1, READ_BYTES);
            let entries = tokio::task::spawn_blocking(read)
                .await
                .map_err(std::io::Error::other)
                .flatten()
                .map_err(|error| Status::data_loss(format!("the log is not readable: {error}")))?;
            if entries.first().is_none_or(|entry| entry.log_id.index() != index) {
                return Err(purged(after_id));
            }
            for entry in entries {
                index = entry.log_id.index() + 1;
                let before = head;
                let Some(batch) = self.extend(&mut head, entry)? else { continue };
                if head == before || head.is_none_or(|head| head.id.get() <= after_id) {
                    continue;
                }
                after_id = batch.last_id;
                if out.send(Ok(batch)).await.is_err() {
                    return Ok(after_id);
                }
            }
        }
        Ok(after_id)
    }

    fn extend(
        &self,
        head: &mut Option<pghc_api::chain::Head>,
        entry: Entry,
    ) -> Result<Option<TailBatch>, Status> {
        let openraft::EntryPayload::Normal(proposal) = entry.payload else { return Ok(None) };
        let index = entry.log_id.index();
        let after_id = head.map_or(0, |head| head.id.get());
        let recalled = self.sequencing.recall(index).ok_or_else(|| purged(after_id))?;
        if recalled.head_before.is_some_and(|before| before != *head) {
            return Err(Status::data_loss(format!(
                "the log up to entry {index} does not give the chain that was sequenced"
            )));
        }
        let without_id = recalled.without_id;
        let (_, bytes, after) = extend(&self.cluster, *head, proposal.0, &without_id)
            .map_err(|error| Status::data_loss(format!("entry {index}: {error}")))?;
        let first_id = head.map_or(1, |head| head.id.get() + 1);
        *head = after;
        Ok(after.map(|after| tail_batch(index, first_id, after, bytes, without_id)))
    }
}

fn purged(after_id: u64) -> Status {
    Status::out_of_range(format!(
        "the log of this coordinator no longer holds id {}; try another coordinator, or fill the \
         zone from another zone",
        after_id + 1
    ))
}

type Out = mpsc::Sender<Result<TailBatch, Status>>;
