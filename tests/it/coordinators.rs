//! A group of coordinators in one process, over real sockets and real disks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::order_result::Kind;
use pghc_runtime::rpc::v1::{
    OrderResult, ReadIndexRequest, SubmitRequest, TailBatch, TailRequest, ZoneReport,
};
use pghc_runtime::rpc::{self, Caller, Dial};
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{Acks, Coordinator, Environment, Geo, Retention, Settings, Timing};
use pghc_server::sequencer::{Batch, Write};

use crate::harness::{free_addresses, unless_held, wait_for};

mod acks;
mod upgrade;
mod zones;

const ZONES: [&str; 3] = ["eu", "us", "ap"];

/// An id that no other group of this process has: a port given back may be another test's next.
fn cluster() -> ClusterId {
    static GROUPS: AtomicU64 = AtomicU64::new(1);
    let number = GROUPS.fetch_add(1, Ordering::Relaxed);
    format!("00000000-0000-4000-8000-{number:012}").parse().expect("a UUID")
}

struct Group {
    cluster: ClusterId,
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    running: BTreeMap<u64, Coordinator>,
    retention: Retention,
    zones: Vec<ZoneName>,
    dial: Option<Arc<dyn Dial>>,
}

impl Group {
    async fn start() -> Self {
        Self::keeping(Retention::default()).await
    }

    async fn keeping(retention: Retention) -> Self {
        let zones = ZONES.iter().map(|zone| zone.parse().expect("a plain name")).collect();
        Self::new(retention, zones, None).await
    }

    /// A group whose coordinators reach each other by `dial` and expect no zones.
    async fn dialing(dial: Arc<dyn Dial>) -> Self {
        Self::new(Retention::default(), Vec::new(), Some(dial)).await
    }

    async fn new(retention: Retention, zones: Vec<ZoneName>, dial: Option<Arc<dyn Dial>>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let addresses = free_addresses(3);
        let (cluster, running) = (cluster(), BTreeMap::new());
        let mut group = Self { cluster, dir, addresses, running, retention, zones, dial };
        for id in 1..=3 {
            group.run(id).await;
        }
        group
    }

    async fn run(&mut self, id: u64) {
        let place = usize::try_from(id).expect("small") - 1;
        let member = |(place, address): (usize, &SocketAddr)| {
            let zone: ZoneName = ZONES[place].parse().expect("a plain name");
            (place as u64 + 1, (zone, format!("http://{address}")))
        };
        let settings = Settings {
            cluster: self.cluster.clone(),
            id,
            data: self.data(id),
            listen: self.addresses[place],
            members: self.addresses.iter().enumerate().map(member).collect(),
            join: false,
            zones: self.zones.clone(),
            timing: Timing::LAN,
            geo: Geo::default(),
            retention: self.retention,
            acks: Acks::AllToAll,
            metrics: Metrics::for_coordinator(),
        };
        let coordinator = wait_for("the coordinator to start", async || {
            unless_held(match &self.dial {
                None => Coordinator::start(settings.clone()).await,
                Some(dial) => {
                    let listener = tokio::net::TcpListener::bind(settings.listen).await.ok()?;
                    let host =
                        Environment::machine(&settings.data, listener).expect("its own directory");
                    let host = Environment { dial: Arc::clone(dial), ..host };
                    Coordinator::start_on(host, settings.listen, settings.clone()).await
                }
            })
        });
        let coordinator = coordinator.await.expect("started");
        self.running.insert(id, coordinator);
    }

    fn data(&self, id: u64) -> std::path::PathBuf {
        Path::join(self.dir.path(), id.to_string())
    }

    async fn stop(&mut self, id: u64) {
        self.running.remove(&id).expect("running").stop().await;
    }

    fn client(&self, id: u64) -> CoordinatorClient<Caller> {
        let url = format!("http://{}", self.running[&id].address());
        let caller = rpc::connect(&url, &self.cluster, Duration::from_secs(10)).expect("a URL");
        CoordinatorClient::new(caller)
    }

    async fn leader(&self) -> u64 {
        wait_for("a leader", async || {
            for id in self.running.keys() {
                let report = ZoneReport::default();
                let view = self.client(*id).report(report).await.ok()?.into_inner();
                if self.running.contains_key(&view.leader) {
                    return Some(view.leader);
                }
            }
            None
        })
        .await
    }
}

fn batch(sequence: u64, writes: usize) -> SubmitRequest {
    let write = |number| Write { key: None, payload: Some(format!("{number}").into()) };
    let node = "eu-1".parse().expect("a plain name");
    let writes = (0..writes).map(write).collect();
    let batch = Batch { session: [1; 16], sequence, node, writes }.encode();
    SubmitRequest { batch, max_wait_ms: 20_000, ..SubmitRequest::default() }
}

async fn submit(
    client: &mut CoordinatorClient<Caller>,
    request: SubmitRequest,
) -> Vec<OrderResult> {
    // A busy machine loses its leader now and then; nothing was handed over then.
    wait_for("a leader that takes it", async || {
        let mut call = tonic::Request::new(request.clone());
        call.set_timeout(Duration::from_secs(20));
        match client.submit(call).await {
            Ok(reply) => Some(reply.into_inner().outcomes),
            Err(status) if status.metadata().contains_key(rpc::NOT_PROPOSED) => None,
            Err(status) => panic!("not ordered: {status:?}"),
        }
    })
    .await
}

fn ids(outcomes: &[OrderResult]) -> Vec<u64> {
    outcomes.iter().map(|outcome| outcome.id).collect()
}

async fn tail(client: &mut CoordinatorClient<Caller>, upto: u64) -> Vec<TailBatch> {
    let mut stream = client.tail(TailRequest::default()).await.expect("a tail").into_inner();
    let mut batches: Vec<TailBatch> = Vec::new();
    while batches.last().is_none_or(|batch| batch.last_id < upto) {
        batches.push(stream.message().await.expect("a batch").expect("no end"));
    }
    batches
}

#[tokio::test(flavor = "multi_thread")]
async fn every_coordinator_tails_the_same_order() {
    let group = Group::start().await;
    let mut total = 0;
    for sequence in 1..=12_u64 {
        let mut client = group.client(sequence % 3 + 1);
        let outcomes = submit(&mut client, batch(sequence, 3)).await;
        assert_eq!(ids(&outcomes), (total + 1..=total + 3).collect::<Vec<_>>());
        assert!(outcomes.iter().all(|outcome| outcome.kind() == Kind::Ordered));
        total += 3;
    }
    let tails = futures::future::join_all((1..=3).map(async |id| {
        let mut client = group.client(id);
        tail(&mut client, total).await
    }))
    .await;
    assert_eq!(tails[0], tails[1]);
    assert_eq!(tails[0], tails[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn resent_batch_is_ordered_once_by_any_coordinator() {
    let group = Group::start().await;
    let first = submit(&mut group.client(1), batch(1, 2)).await;
    for id in 1..=3 {
        let again = submit(&mut group.client(id), batch(1, 2)).await;
        assert_eq!(again, first);
    }
    assert_eq!(ids(&submit(&mut group.client(2), batch(2, 1)).await), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_links_survive_loss_of_leader() {
    let mut group = Group::start().await;
    let mut ordered = 0;
    for round in 0..3_u64 {
        let leader = group.leader().await;
        group.stop(leader).await;
        let other = leader % 3 + 1;
        let outcomes = submit(&mut group.client(other), batch(round + 1, 1)).await;
        ordered += 1;
        assert_eq!(ids(&outcomes), [ordered]);
        group.run(leader).await;
        assert_eq!(tail(&mut group.client(leader), ordered).await.len() as u64, ordered);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_refusing_connections_is_called_with_backoff() {
    const CALLS: usize = 60;
    let mut group = Group::start().await;
    let leader = group.leader().await;
    let away = leader % 3 + 1;
    group.stop(away).await;
    let address = group.addresses[usize::try_from(away).expect("small") - 1];
    let listener = tokio::net::TcpListener::bind(address).await.expect("its port");
    // Entries to send, with further writes meanwhile.
    submit(&mut group.client(leader), batch(1, 1)).await;
    let began = tokio::time::Instant::now();
    for _ in 0..CALLS {
        drop(listener.accept().await.expect("a call"));
    }
    let took = began.elapsed();
    // Without pauses it is some ten milliseconds, and a core is busy with nothing else.
    assert!(took >= Duration::from_millis(300), "{CALLS} calls within {took:?}");
    submit(&mut group.client(leader), batch(2, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_stopped_whole_carries_on() {
    let mut group = Group::start().await;
    let first = submit(&mut group.client(1), batch(1, 5)).await;
    for id in 1..=3 {
        group.stop(id).await;
    }
    for id in 1..=3 {
        group.run(id).await;
    }
    assert_eq!(ids(&submit(&mut group.client(2), batch(2, 1)).await), [6]);
    let again = submit(&mut group.client(3), batch(1, 5)).await;
    assert_eq!(ids(&again), ids(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_read_sees_every_answered_write() {
    let group = Group::start().await;
    for sequence in 1..=20 {
        submit(&mut group.client(sequence % 3 + 1), batch(sequence, 1)).await;
        let mut reader = group.client((sequence + 1) % 3 + 1);
        let read = wait_for("a confirmation", async || {
            reader.read_index(ReadIndexRequest::default()).await.ok()
        });
        assert!(read.await.into_inner().id >= sequence);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_address_is_told_from_a_lost_answer() {
    let url = format!("http://{}", free_addresses(1)[0]);
    let caller = rpc::connect(&url, &cluster(), Duration::from_secs(10)).expect("a URL");
    let error = CoordinatorClient::new(caller).submit(batch(1, 1)).await.expect_err("dead");
    assert!(rpc::is_connection_refused(&error), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_without_leader_reports_not_proposed_in_time() {
    let mut group = Group::start().await;
    submit(&mut group.client(1), batch(1, 1)).await;
    let leader = group.leader().await;
    let left = leader % 3 + 1;
    for id in (1..=3).filter(|id| *id != left) {
        group.stop(id).await;
    }
    // The first writes may still have gone to the leader's connection; then nothing takes them.
    wait_for("an honest refusal", async || {
        let request = SubmitRequest { max_wait_ms: 400, ..batch(2, 1) };
        let mut call = tonic::Request::new(request);
        call.set_timeout(Duration::from_millis(400));
        let error = group.client(left).submit(call).await.err()?;
        error.metadata().contains_key(rpc::NOT_PROPOSED).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_another_cluster_is_refused() {
    let group = Group::start().await;
    let url = format!("http://{}", group.running[&1].address());
    let other: ClusterId = "00000000-0000-4000-8000-ffffffffffff".parse().expect("a UUID");
    let caller = rpc::connect(&url, &other, Duration::from_secs(10)).expect("a URL");
    let error = CoordinatorClient::new(caller).submit(batch(1, 1)).await.expect_err("foreign");
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
}

/// Reports to a coordinator that every zone has kept everything up to `flushed`.
async fn report_flushed(client: &mut CoordinatorClient<Caller>, flushed: u64) {
    for zone in ZONES {
        let report = ZoneReport {
            zone: zone.to_owned(),
            node: format!("{zone}-1"),
            is_applier: true,
            frontier: flushed,
            flushed,
            ..ZoneReport::default()
        };
        client.report(report).await.expect("reported");
    }
}

/// Waits until a coordinator has purged its log beyond the first ids.
async fn purged(group: &Group, id: u64) {
    wait_for("a purge", async || {
        let mut client = group.client(id);
        let mut stream = client.tail(TailRequest::default()).await.ok()?.into_inner();
        let refused = stream.message().await.err()?;
        (refused.code() == tonic::Code::OutOfRange).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_behind_purged_log_installs_snapshot() {
    let period = Duration::from_millis(50);
    let retention =
        Retention { log_bytes: 0, snapshot_entries: 10, period, ..Retention::default() };
    let mut group = Group::keeping(retention).await;
    group.leader().await;
    group.stop(3).await;
    // The tail's memory forgets these only with a restart, so that the log alone can serve them.
    for sequence in 1..=600 {
        submit(&mut group.client(sequence % 2 + 1), batch(sequence, 1)).await;
    }
    for id in [1, 2] {
        group.stop(id).await;
    }
    for id in [1, 2] {
        group.run(id).await;
    }
    group.leader().await;
    for id in [1, 2] {
        report_flushed(&mut group.client(id), 500).await;
    }
    submit(&mut group.client(1), batch(601, 1)).await;
    purged(&group, 1).await;
    purged(&group, 2).await;
    group.run(3).await;
    let outcomes = submit(&mut group.client(3), batch(602, 1)).await;
    assert_eq!(ids(&outcomes), [602]);
    let repeated = submit(&mut group.client(3), batch(600, 1)).await;
    assert_eq!(ids(&repeated), [600], "the snapshot remembers sessions");
    // Links that a zone has not kept yet are still served by the coordinators that hold them.
    let mut client = group.client(1);
    let request = TailRequest { after_id: 500, ..TailRequest::default() };
    let mut stream = client.tail(request).await.expect("a tail").into_inner();
    let first = stream.message().await.expect("a batch").expect("no end");
    assert_eq!(first.first_id, 501);
    for id in 1..=3 {
        group.stop(id).await;
    }
    for id in 1..=3 {
        group.run(id).await;
    }
    assert_eq!(ids(&submit(&mut group.client(3), batch(603, 2)).await), [603, 604]);
}
