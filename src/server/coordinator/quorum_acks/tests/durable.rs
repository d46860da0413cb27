//! Tests when the local durable position is published.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::Vote;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use pghc_runtime::telemetry::Metrics;

use super::ahead::blank;
use crate::coordinator::log::tests::mem_disk::MemDisk;
use crate::coordinator::log::{Log, Options};
use crate::coordinator::quorum_acks::Acks;
use crate::coordinator::quorum_acks::progress::ReplicationProgress;
use crate::coordinator::quorum_acks::quorum::Ack;
use crate::coordinator::raft::log_store::LogStore;

const SMALL: Options = Options {
    segment_bytes: 64 << 10,
    grow_bytes: 4 << 10,
    queue_bytes: 1 << 20,
    cache_bytes: 1 << 20,
};

fn open(disk: &MemDisk) -> (LogStore, ReplicationProgress) {
    let log = Log::open_on(Arc::new(disk.clone()), Path::new("/mem"), SMALL).expect("a good log");
    let progress = ReplicationProgress::new(1, Acks::AllToAll);
    let store = LogStore::new(log, Metrics::for_coordinator(), progress.clone());
    (store.expect("readable"), progress)
}

fn newest(progress: &ReplicationProgress) -> Option<Ack> {
    *progress.own().borrow()
}

#[tokio::test]
async fn ack_follows_the_flush_or_the_restart() {
    let disk = MemDisk::default();
    let (mut store, progress) = open(&disk);
    store.save_vote(&Vote::new_committed(1, 1)).await.expect("a good disk");
    assert_eq!(newest(&progress), None, "there is no entry yet");
    disk.hold_syncs(true);
    store.append([blank(1, 0)], IOFlushed::noop()).await.expect("queued");
    assert_eq!(newest(&progress), None, "it is not durable yet");
    disk.hold_syncs(false);
    let mut own = progress.own();
    let ack = tokio::time::timeout(Duration::from_secs(60), own.wait_for(Option::is_some)).await;
    let ack = *ack.expect("the flush ends").expect("the progress exists");
    assert_eq!(
        ack.map(|ack| (ack.index, ack.is_elected, ack.vote == ack.last)),
        Some((0, true, true))
    );
    drop(store);
    assert_eq!(newest(&open(&disk).1), ack);
}

#[tokio::test]
async fn leader_mode_sends_no_acks() {
    let progress = ReplicationProgress::new(1, Acks::Leader);
    progress.on_open(Some(Vote::new_committed(1, 1)), Some(blank(1, 0).log_id));
    assert_eq!(newest(&progress), None);
}
