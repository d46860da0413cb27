//! Assembles one coordinator: storage, consensus, services, background tasks, in this order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use pghc_api::id::ClusterId;
use pghc_runtime::rpc::v1::NodeInfo;
use pghc_runtime::rpc::v1::coordinator_server::CoordinatorServer;
use pghc_runtime::rpc::v1::members_server::MembersServer;
use pghc_runtime::rpc::v1::raft_server::RaftServer;
use pghc_runtime::rpc::v1::zones_server::ZonesServer;
use pghc_runtime::rpc::{BATCH_MESSAGE_BYTES_MAX, ClusterCheck, Dial, MESSAGE_BYTES_MAX};
use pghc_runtime::task::{Tasks, fair_watch};
use pghc_runtime::telemetry::Metrics;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use super::admission::identity::DataDirIdentity;
use super::admission::node_info::node_info;
use super::admission::peer_history::PeerHistory;
use super::admission::responder::AdmissionResponder;
use super::admission::startup::Admission;
use super::disk_reserve::DiskReserve;
use super::environment::Clock;
use super::grpc::coordinator_service::CoordinatorService;
use super::grpc::raft_service::RaftService;
use super::grpc::zones_service::ZoneService;
use super::log::disk::Disk;
use super::log::{Log, Options};
use super::members::leader_balancer::LeaderBalancer;
use super::members::service::MembersService;
use super::ordering::leader_client::LeaderClient;
use super::ordering::read_index::ReadIndexBarrier;
use super::ordering::tail::Tails;
use super::peers::directory::PeerDirectory;
use super::peers::traffic_guard::RaftTrafficGuard;
use super::placement::rtt_monitor::RttMonitor;
use super::placement::timing_advisor::TimingAdvisor;
use super::placement::topology_view::TopologyView;
use super::placement::write_rates::WriteRates;
use super::quorum_acks::Acks;
use super::quorum_acks::ack_stream::AckStream;
use super::quorum_acks::commit_task::CommitTask;
use super::quorum_acks::progress::ReplicationProgress;
use super::raft::format_support::FormatSupport;
use super::raft::handle::Raft;
use super::raft::idle_heartbeats::IdleHeartbeats;
use super::raft::log_store::LogStore;
use super::raft::network::Network;
use super::raft::vote_withholding::VoteWithholding;
use super::recovery_progress;
use super::replica::driver::SequencerDriver;
use super::replica::snapshots::Snapshots;
use super::replica::state_machine::StateMachine;
use super::retention::RetentionTask;
use super::settings::{Retention, Settings, StartError, Timing};
use super::zones::progress_view::ZoneProgressView;
use super::zones::registration::Registrar;

/// Least time between two updates of the head's gauge.
const HEAD_GAUGE_PERIOD: Duration = Duration::from_millis(100);

/// Opened files of a coordinator, and the state on top of them.
pub(super) struct Storage {
    pub(super) log: Log,
    identity: DataDirIdentity,
    disk_reserve: DiskReserve,
    store: LogStore,
    acks: ReplicationProgress,
    peer_history: PeerHistory,
    driver: Arc<SequencerDriver>,
    snapshots: Snapshots,
}

impl Storage {
    /// Opens every file once the disk has space for the log, and counts the start. `disk` holds the
    /// snapshot and the small files.
    pub(super) async fn open(
        log_disk: Arc<dyn Disk>,
        disk: Arc<dyn Disk>,
        settings: &Settings,
    ) -> Result<Self, StartError> {
        let Settings { id, data, retention, .. } = settings;
        let data_error = |error| StartError::Data(data.clone(), error);
        let identity_error = |error| StartError::Identity(*id, data.clone(), error);
        let identity = DataDirIdentity::take(Arc::clone(&disk), settings);
        let mut identity = identity.map_err(identity_error)?;
        let disk_reserve = DiskReserve::new(Arc::clone(&log_disk), *id, retention.reserve_bytes);
        disk_reserve.room_to_open().await;
        let options = log_options(retention);
        let log = Log::open_on(Arc::clone(&log_disk), &data.join("log"), options);
        let log = log.map_err(StartError::Log)?;
        let acks = ReplicationProgress::new(*id, settings.acks);
        let store = LogStore::new(log.clone(), Arc::clone(&settings.metrics), acks.clone());
        let store = store.map_err(data_error)?;
        // A log that existed must still exist before this start is counted.
        identity.check(store.is_new()).map_err(identity_error)?;
        identity.count_start(log_disk.as_ref()).map_err(identity_error)?;
        let peer_history = PeerHistory::load(*id, Arc::clone(&disk)).map_err(data_error)?;
        let driver = SequencerDriver::new(settings.cluster.clone(), retention.ring_bytes());
        let driver = Arc::new(driver);
        let snapshots = Snapshots::new(disk, data);
        snapshots.check(log.state().purged.map(|(index, _)| index)).map_err(data_error)?;
        Ok(Self { log, identity, disk_reserve, store, acks, peer_history, driver, snapshots })
    }
}

/// Returns log options with segments and an entry cache that fit into the log's limit.
fn log_options(retention: &Retention) -> Options {
    let (segment_bytes, options) = (retention.segment_bytes(), Options::default());
    let grow_bytes = options.grow_bytes.min(segment_bytes);
    let cache_bytes = options.cache_bytes.min(retention.ring_bytes());
    Options { segment_bytes, grow_bytes, cache_bytes, ..options }
}

/// The running consensus core, the peers, and the guards of the traffic between them.
pub(super) struct Consensus {
    pub(super) raft: Raft,
    pub(super) peers: PeerDirectory,
    traffic_guard: RaftTrafficGuard,
    vote_withholding: VoteWithholding,
    /// Description of this coordinator at startup.
    me: NodeInfo,
}

impl Consensus {
    /// Starts openraft on `storage`. The traffic guard stays closed until admission.
    pub(super) async fn start(
        settings: &Settings,
        dial: Arc<dyn Dial>,
        storage: &Storage,
    ) -> Result<Self, StartError> {
        let Settings { id, cluster, timing, .. } = settings;
        let rpc_timeout = timing.lease().max(Duration::from_millis(500));
        let urls = settings.members.iter().map(|(id, (_, url))| (*id, url.clone())).collect();
        let peers = PeerDirectory::new(dial, cluster.clone(), urls, rpc_timeout);
        let vote_withholding = VoteWithholding::new(*timing, settings.geo.provisional);
        let incarnation = storage.identity.incarnation();
        let traffic_guard = RaftTrafficGuard::new(*id, incarnation, peers.clone());
        let (guard, withholding) = (traffic_guard.clone(), vote_withholding.clone());
        let appended = (settings.acks == Acks::AllToAll).then(|| storage.store.appended());
        let network = Network::new(peers.clone(), guard, withholding, appended);
        let driver = Arc::clone(&storage.driver);
        let metrics = Arc::clone(&settings.metrics);
        let machine = StateMachine::new(driver, storage.snapshots.clone(), metrics);
        let config = Arc::new(raft_config(*timing)?);
        let raft = Raft::new(*id, config, network, storage.store.clone(), machine).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        let me = node_info(settings, &storage.identity, &raft, &peers).await?;
        Ok(Self { raft, peers, traffic_guard, vote_withholding, me })
    }

    /// Deadline of one attempt to reach the leader.
    fn attempt_max(&self) -> Duration {
        self.peers.rpc_timeout() * 4
    }
}

fn raft_config(timing: Timing) -> Result<Config, StartError> {
    let config = Config {
        cluster_name: "pghc".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.draw_min_ms,
        election_timeout_max: timing.lease_ms,
        install_snapshot_timeout: 60_000,
        // The log feeds the zones: only `retention` may purge it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // The state machine is in memory, so a restarted leader must be elected again.
        enable_leader_restore: Some(false),
        // Admission rejects a follower that has lost entries; if one is admitted, the leader must
        // survive it.
        allow_log_reversion: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Settings(error.to_string()))
}

/// Parts shared by the services and the background tasks.
pub(super) struct Parts {
    leader_client: LeaderClient,
    read_index: ReadIndexBarrier,
    write_rates: WriteRates,
    rtt_monitor: RttMonitor,
    members: MembersService,
    zone_progress: ZoneProgressView,
    registrar: Registrar,
}

impl Parts {
    /// Builds the parts; `disk` holds the small files.
    pub(super) fn build(
        settings: &Settings,
        storage: &Storage,
        consensus: &Consensus,
        clock: Clock,
        disk: Arc<dyn Disk>,
        tasks: &Tasks,
    ) -> Self {
        let (id, metrics) = (settings.id, &settings.metrics);
        let Storage { store, driver, .. } = storage;
        let Consensus { raft, peers, .. } = consensus;
        let attempt_max = consensus.attempt_max();
        let format_support = FormatSupport::new(id, raft, peers, driver.zones());
        let leader_client =
            LeaderClient::new(id, raft, metrics, peers.clone(), format_support, clock, tasks);
        let write_rates = WriteRates::new(&consensus.me.zone);
        let advisor = TimingAdvisor::load(settings.timing, settings.geo.adapts, disk.as_ref());
        let known = (&storage.disk_reserve, &write_rates);
        let rtt_monitor = RttMonitor::load(id, peers, known, disk, settings.geo.auto, advisor);
        let members = members(settings, raft, peers, &rtt_monitor, tasks);
        let zone_progress = ZoneProgressView::new(driver, store, settings.zones.clone());
        let registrar = Registrar::new(&leader_client, &zone_progress.zones, attempt_max);
        let read_index = ReadIndexBarrier::new(raft, store, driver, attempt_max);
        Self {
            leader_client,
            read_index,
            write_rates,
            rtt_monitor,
            members,
            zone_progress,
            registrar,
        }
    }
}

/// Builds the members service and spawns the loop that transfers leadership through it.
fn members(
    settings: &Settings,
    raft: &Raft,
    peers: &PeerDirectory,
    rtt_monitor: &RttMonitor,
    tasks: &Tasks,
) -> MembersService {
    let (id, lease) = (settings.id, settings.timing.lease());
    let topology_view = TopologyView::new(rtt_monitor, settings.acks == Acks::AllToAll);
    let members = MembersService::new(id, raft, peers, lease, &topology_view, tasks);
    let balancer =
        LeaderBalancer { id, raft: raft.clone(), topology_view, members: members.clone() };
    tasks.spawn("leader balancer", balancer.run());
    members
}

/// The gRPC services of a coordinator.
pub(super) struct Services {
    raft: RaftService,
    coordinator: CoordinatorService,
    members: MembersService,
    zones: ZoneService,
}

impl Services {
    /// Builds the services, and starts the tasks for acks and idle heartbeats that they report to.
    pub(super) fn build(
        settings: &Settings,
        storage: &Storage,
        consensus: &Consensus,
        parts: &Parts,
        tasks: &Tasks,
    ) -> Self {
        let (id, metrics) = (settings.id, &settings.metrics);
        let Storage { store, acks, driver, .. } = storage;
        let Consensus { raft, peers, traffic_guard, me, .. } = consensus;
        CommitTask::start(acks, traffic_guard, driver, store, metrics, tasks);
        AckStream::start(id, acks, traffic_guard, peers, raft, tasks);
        let tails = Tails {
            cluster: settings.cluster.clone(),
            driver: Arc::clone(driver),
            log: store.clone(),
            tasks: tasks.clone(),
        };
        Self {
            raft: RaftService {
                raft: raft.clone(),
                traffic_guard: traffic_guard.clone(),
                responder: AdmissionResponder::new(me, raft, peers, &storage.peer_history),
                rtt_monitor: parts.rtt_monitor.clone(),
                vote_withholding: consensus.vote_withholding.clone(),
                leader_contact: IdleHeartbeats::start(settings, raft, store, tasks),
                metrics: Arc::clone(metrics),
                acks: acks.clone(),
                end: tasks.signal(),
            },
            coordinator: CoordinatorService::new(
                id,
                (parts.leader_client.clone(), parts.read_index.clone()),
                &parts.zone_progress,
                tails,
                storage.disk_reserve.clone(),
                parts.write_rates.clone(),
                consensus.attempt_max(),
            ),
            members: parts.members.clone(),
            zones: ZoneService {
                registrar: parts.registrar.clone(),
                zone_progress: parts.zone_progress.clone(),
            },
        }
    }

    /// Returns the routes; every call must carry the cluster's id.
    pub(super) fn routes(self, cluster: &ClusterId) -> Routes {
        let check = ClusterCheck::serving(cluster);
        let raft = RaftServer::new(self.raft)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let coordinator = CoordinatorServer::new(self.coordinator)
            .max_decoding_message_size(BATCH_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let members = MembersServer::new(self.members);
        Routes::new(InterceptedService::new(raft, check.clone()))
            .add_service(InterceptedService::new(coordinator, check.clone()))
            .add_service(InterceptedService::new(members, check.clone()))
            .add_service(InterceptedService::new(ZonesServer::new(self.zones), check))
    }
}

/// Spawns the tasks that run until the coordinator stops; returns the reason of a rejected
/// admission, once there is one.
pub(super) fn spawn_background(
    settings: &Settings,
    address: SocketAddr,
    storage: Storage,
    consensus: &Consensus,
    parts: Parts,
    tasks: &Tasks,
) -> fair_watch::Receiver<Option<String>> {
    let metrics = &settings.metrics;
    let Storage { identity, disk_reserve, store, peer_history, driver, .. } = storage;
    let Consensus { raft, peers, traffic_guard, me, .. } = consensus;
    let (refusal, refused) = fair_watch::channel(None);
    let admission = Admission {
        me: me.clone(),
        raft: raft.clone(),
        peers: peers.clone(),
        traffic_guard: traffic_guard.clone(),
        identity,
        log: store.clone(),
        peer_history: peer_history.clone(),
        refused: refusal,
    };
    disk_reserve.start(raft, &store, metrics, tasks);
    let retention = RetentionTask::new(raft, store, &driver, parts.zone_progress, settings);
    tasks.spawn("admission", admission.run());
    tasks.spawn("peer history", peer_history.follow(raft.clone(), peers.clone()));
    tasks.spawn("rtt monitor", parts.rtt_monitor.run());
    tasks.spawn("retention", retention.run());
    tasks.spawn("zone registration", parts.registrar.run());
    tasks.spawn("head gauge", follow_head(Arc::clone(&driver), Arc::clone(metrics)));
    let Parts { leader_client, read_index, .. } = parts;
    let id = settings.id;
    tasks.spawn(
        "recovery progress",
        recovery_progress::report_caught_up(id, address, leader_client, read_index, driver),
    );
    refused
}

/// Keeps the gauge of the newest committed id, at most [`HEAD_GAUGE_PERIOD`] late: a wake-up for
/// every entry would cost more than a metric that is scraped every few seconds is worth.
async fn follow_head(driver: Arc<SequencerDriver>, metrics: Arc<Metrics>) {
    let mut head_id = driver.head_id();
    loop {
        metrics.coordinator.head_id.set(*head_id.borrow_and_update());
        if head_id.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(HEAD_GAUGE_PERIOD).await;
    }
}
