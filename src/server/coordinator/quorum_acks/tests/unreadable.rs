//! Tests `CommitTask` while the log cannot be read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::Vote;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use pghc_runtime::rpc::Tcp;
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;

use super::ahead::{LONG, blank, driver, next};
use crate::coordinator::log::tests::mem_disk::MemDisk;
use crate::coordinator::log::{Log, Options};
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::quorum_acks::Acks;
use crate::coordinator::quorum_acks::commit_task::CommitTask;
use crate::coordinator::quorum_acks::progress::ReplicationProgress;
use crate::coordinator::raft::log_store::LogStore;

/// Nothing on the disk stays in memory.
const UNCACHED: Options =
    Options { segment_bytes: 64 << 10, grow_bytes: 4 << 10, queue_bytes: 1 << 20, cache_bytes: 0 };

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn counting_resumes_when_the_log_is_readable() {
    let (disk, driver) = (MemDisk::default(), driver());
    let log = Log::open_on(Arc::new(disk.clone()), Path::new("/mem"), UNCACHED).expect("a log");
    let (progress, metrics) =
        (ReplicationProgress::new(1, Acks::AllToAll), Metrics::for_coordinator());
    let mut store = LogStore::new(log, Arc::clone(&metrics), progress.clone()).expect("readable");
    let cluster = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
    let peers = PeerDirectory::new(Arc::new(Tcp), cluster, BTreeMap::new(), LONG);
    let (traffic_guard, tasks) = (RaftTrafficGuard::new(1, "a", peers), Tasks::default());
    traffic_guard.admit();
    store.save_vote(&Vote::new_committed(1, 1)).await.expect("a good disk");
    let entries = [blank(1, 0), blank(1, 1), blank(1, 2)];
    store.append(entries, IOFlushed::noop()).await.expect("a good disk");
    store.flushed().await.expect("a good disk");
    disk.fail_reads(true);
    CommitTask::start(&progress, &traffic_guard, &driver, &store, &metrics, &tasks);
    let own = *progress.own().borrow();
    let own = own.expect("it is durable");
    progress.record(2, &own);
    wait_until("two failed reads", || disk.failed_reads() >= 2).await;
    let counts = &metrics.coordinator.counts_acks;
    assert_eq!((counts.get(), next(&driver)), (0, 2));
    disk.fail_reads(false);
    wait_until("the count resumes", || counts.get() == 1).await;
    wait_until("the acked entry is sequenced", || next(&driver) == 3).await;
    tasks.shut_down().await;
}
