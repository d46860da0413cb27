//! Reports when a restarted coordinator holds every acknowledged write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pghc_runtime::rpc::v1::ReadIndexRequest;
use tokio::time::{Instant, sleep};
use tonic::Request;

use super::ordering::leader_client::LeaderClient;
use super::ordering::read_index::ReadIndexBarrier;
use super::replica::driver::SequencerDriver;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Deadline of one ReadIndex call.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Logs the state that is known to be committed at startup.
fn report_started(id: u64, address: SocketAddr, driver: &SequencerDriver) {
    let (head, committed) = (driver.head(), driver.applied().0.map(|it| it.index));
    let head_id = head.map_or(0, |head| head.id.get());
    let hash = head.map(|head| head.hash.to_string());
    tracing::info!(id, %address, head_id, hash, committed, "coordinator started");
}

/// Logs the startup state, asks a majority through the leader for the newest acknowledged id, and
/// waits until that id is sequenced here.
pub(crate) fn report_caught_up(
    id: u64,
    address: SocketAddr,
    leader_client: LeaderClient,
    read_index: ReadIndexBarrier,
    driver: Arc<SequencerDriver>,
) -> impl Future<Output = ()> + Send {
    report_started(id, address, &driver);
    wait(leader_client, read_index, driver)
}

async fn wait(
    leader_client: LeaderClient,
    read_index: ReadIndexBarrier,
    driver: Arc<SequencerDriver>,
) {
    let started = Instant::now();
    let newest = loop {
        if let Some(id) = newest(&leader_client, &read_index, &driver).await {
            break id;
        }
        sleep(PAUSE).await;
    };
    let mut head_id = driver.head_id();
    if head_id.wait_for(|id| *id >= newest).await.is_err() {
        return;
    }
    let head = driver.head();
    tracing::info!(
        head_id = head.map_or(0, |head| head.id.get()),
        hash = head.map(|head| head.hash.to_string()),
        after_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "recovery complete: every acknowledged write is here"
    );
}

async fn newest(
    leader_client: &LeaderClient,
    read_index: &ReadIndexBarrier,
    driver: &SequencerDriver,
) -> Option<u64> {
    if let Some(mut leader) = leader_client.leader() {
        let mut request = Request::new(ReadIndexRequest { forwarded: true });
        request.set_timeout(ANSWER_MAX);
        return leader.read_index(request).await.ok().map(|reply| reply.into_inner().id);
    }
    read_index.wait().await.ok()?;
    Some(*driver.head_id().borrow())
}
