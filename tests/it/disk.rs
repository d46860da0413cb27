//! Full disks: writes are refused before damage, a process that cannot write ends with the reason,
//! and service resumes when the disks have space. The disks are real ones behind a meter.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::{Cluster, SubmitRequest, ZoneReport};
use pghc_runtime::rpc::{self, Caller};
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::log::disk::{Disk, DiskFile};
use pghc_server::coordinator::{Acks, Coordinator, Environment, Geo, Retention, Settings, Timing};
use pghc_server::sequencer::{Batch, Write};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::harness::{free_addresses, wait_for};

const ZONES: [&str; 3] = ["eu", "us", "ap"];
const RESERVE: u64 = 1 << 20;
const PLENTY: u64 = 1 << 30;

fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

/// A disk with a limited number of writable bytes.
struct Metered {
    disk: Arc<dyn Disk>,
    free: Arc<AtomicU64>,
}

struct MeteredFile(Arc<dyn DiskFile>, Arc<AtomicU64>);

impl Metered {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(MeteredFile(file, Arc::clone(&self.free)))
    }
}

impl Disk for Metered {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.free.load(Ordering::Relaxed))
    }
}

impl DiskFile for MeteredFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(into, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// A coordinator on a runtime of its own: when that ends, so do its connections, as in a process.
struct Process {
    coordinator: Option<Coordinator>,
    runtime: Option<Runtime>,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.coordinator.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Group {
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    free: Vec<Arc<AtomicU64>>,
    running: BTreeMap<usize, Process>,
}

impl Group {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let addresses = free_addresses(3);
        let free = (0..3).map(|_| Arc::new(AtomicU64::new(PLENTY))).collect();
        let mut group = Self { dir, addresses, free, running: BTreeMap::new() };
        for place in 0..3 {
            group.run(place).await;
        }
        group
    }

    async fn run(&mut self, place: usize) {
        let process = self.starting(place).await;
        self.running.insert(place, process);
    }

    async fn starting(&self, place: usize) -> Process {
        let data = self.dir.path().join(place.to_string());
        let member = |(place, address): (usize, &SocketAddr)| {
            let zone: ZoneName = ZONES[place].parse().expect("a plain name");
            (place as u64 + 1, (zone, format!("http://{address}")))
        };
        let address = self.addresses[place];
        let settings = Settings {
            cluster: cluster(),
            id: place as u64 + 1,
            data: data.clone(),
            listen: address,
            members: self.addresses.iter().enumerate().map(member).collect(),
            zones: ZONES.iter().map(|zone| zone.parse().expect("a plain name")).collect(),
            join: false,
            timing: Timing::LAN,
            geo: Geo::default(),
            retention: Retention { reserve_bytes: RESERVE, ..Retention::default() },
            acks: Acks::AllToAll,
            metrics: Metrics::for_coordinator(),
        };
        let free = Arc::clone(&self.free[place]);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        // The port is free as soon as the process before has ended.
        let listener =
            wait_for("its port", async || std::net::TcpListener::bind(address).ok()).await;
        listener.set_nonblocking(true).expect("a socket");
        let start = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            let mut host = Environment::machine(&data, listener).expect("a directory");
            host.log = Arc::new(Metered { disk: host.log, free });
            Coordinator::start_on(host, address, settings).await.expect("started")
        });
        let mut process = Process { coordinator: None, runtime: Some(runtime) };
        process.coordinator = Some(start.await.expect("no panic"));
        process
    }

    fn set_free(&self, place: usize, bytes: u64) {
        self.free[place].store(bytes, Ordering::Relaxed);
    }

    fn client(&self, place: usize) -> CoordinatorClient<Caller> {
        let url = format!("http://{}", self.addresses[place]);
        let caller = rpc::connect(&url, &cluster(), Duration::from_secs(10)).expect("a URL");
        CoordinatorClient::new(caller)
    }

    async fn view(&self, place: usize) -> Option<Cluster> {
        let view = self.client(place).report(ZoneReport::default()).await.ok()?;
        Some(view.into_inner())
    }

    /// Place of the leader, as every running coordinator sees it.
    async fn leader(&self) -> usize {
        wait_for("a leader", async || {
            let mut leaders = Vec::new();
            for place in self.running.keys() {
                leaders.push(self.view(*place).await?.leader);
            }
            let leader = usize::try_from(leaders[0]).expect("small").checked_sub(1)?;
            let is_one = leaders.iter().all(|it| *it == leaders[0]);
            (is_one && self.running.contains_key(&leader)).then_some(leader)
        })
        .await
    }

    async fn submit(&self, place: usize, sequence: u64) -> Result<u64, tonic::Status> {
        let write = Write { key: None, payload: Some(format!("{sequence}").into()) };
        let node = "eu-1".parse().expect("a plain name");
        let batch = Batch { session: [1; 16], sequence, node, writes: vec![write] }.encode();
        let patience = Duration::from_secs(2);
        let mut call = tonic::Request::new(SubmitRequest {
            batch,
            max_wait_ms: 800,
            ..SubmitRequest::default()
        });
        call.set_timeout(patience);
        let reply = self.client(place).submit(call).await?.into_inner();
        Ok(reply.outcomes[0].id)
    }

    /// Submits until it is ordered, as an API node does.
    async fn ordered(&self, place: usize, sequence: u64) -> u64 {
        wait_for("an order", async || self.submit(place, sequence).await.ok()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_with_full_disk_transfers_leadership() {
    let group = Group::start().await;
    let leader = group.leader().await;
    assert_eq!(group.ordered(0, 1).await, 1);
    group.set_free(leader, RESERVE - 1);
    wait_for("another leader", async || {
        let view = group.view((leader + 1) % 3).await?;
        (view.leader != 0 && view.leader != leader as u64 + 1).then_some(())
    })
    .await;
    // The coordinator follows, votes, and forwards writes.
    assert_eq!(group.ordered(leader, 2).await, 2);
    let view = group.view(leader).await.expect("it answers");
    assert!(view.disk_short, "it says so");
    group.set_free(leader, PLENTY);
    wait_for("room again", async || (!group.view(leader).await?.disk_short).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_until_disks_have_space() {
    let group = Group::start().await;
    assert_eq!(group.ordered(0, 1).await, 1);
    (0..3).for_each(|place| group.set_free(place, RESERVE - 1));
    for place in 0..3 {
        wait_for("its notice", async || group.view(place).await?.disk_short.then_some(())).await;
    }
    for place in 0..3 {
        // The first may meet the end of a leader.
        let refused = wait_for("an honest refusal", async || {
            let error = group.submit(place, 2).await.err()?;
            (error.code() == tonic::Code::ResourceExhausted).then_some(error)
        })
        .await;
        assert!(refused.metadata().contains_key(rpc::NOT_PROPOSED), "{refused:?}");
    }
    (0..3).for_each(|place| group.set_free(place, PLENTY));
    assert_eq!(group.ordered(1, 2).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_with_full_disk_returns_when_space_is_free() {
    let mut group = Group::start().await;
    let follower = (group.leader().await + 1) % 3;
    let other = (follower + 1) % 3;
    assert_eq!(group.ordered(other, 1).await, 1);
    group.set_free(follower, 0);
    assert_eq!(group.ordered(other, 2).await, 2, "the others go on");
    let ended = group.running.remove(&follower).expect("it ran");
    let stopped = ended.coordinator.as_ref().expect("it ran").stopped();
    let why = tokio::time::timeout(Duration::from_secs(60), stopped).await;
    let why = why.expect("it does not lie, it ends");
    assert!(why.contains("the log could not be written"), "{why}");
    drop(ended);
    // Started again by its supervisor, it waits instead of dying again.
    let (free, waited) = (Arc::clone(&group.free[follower]), Duration::from_millis(600));
    let started = {
        let mut started = std::pin::pin!(group.starting(follower));
        assert!(tokio::time::timeout(waited, &mut started).await.is_err(), "it waits for room");
        free.store(PLENTY, Ordering::Relaxed);
        started.await
    };
    group.running.insert(follower, started);
    assert_eq!(group.ordered(follower, 3).await, 3);
}
