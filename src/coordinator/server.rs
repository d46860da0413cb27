//! Starts and stops one coordinator.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::{Config, SnapshotPolicy};
use pghc_api::id::ClusterId;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use super::admission::identity::DataDirIdentity;
use super::admission::node_info::node_info;
use super::admission::peer_history::PeerHistory;
use super::admission::responder::AdmissionResponder;
use super::admission::startup::Admission;
use super::disk_reserve::DiskReserve;
use super::environment::Host;
use super::grpc::coordinator_service::CoordinatorService;
use super::grpc::raft_service::RaftService;
use super::grpc::zones_service::ZoneService;
use super::log::disk::{Directory, Disk};
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
use super::placement::topology_view;
use super::placement::write_rates::WriteRates;
use super::quorum_acks::Acks;
use super::quorum_acks::ack_stream::AckStream;
use super::quorum_acks::commit_task::CommitTask;
use super::quorum_acks::progress::ReplicationProgress;
use super::raft::format_support::FormatSupport;
use super::raft::handle::{Raft, leader};
use super::raft::idle_heartbeats::IdleHeartbeats;
use super::raft::leadership_transfer::{Limit, transfer_leadership};
use super::raft::log_store::LogStore;
use super::raft::network::Network;
use super::raft::vote_withholding::VoteWithholding;
use super::recovery_progress;
use super::replica::driver::SequencerDriver;
use super::replica::snapshots::Snapshots;
use super::replica::state_machine::StateMachine;
use super::retention::RetentionTask;
use super::settings::{Geo, Retention, Settings, StartError, Timing};
use super::zones::progress_view::ZoneProgressView;
use super::zones::registration::Registrar;
use crate::connections::{kept_for_files, room_for};
use crate::rpc::doors::CONNECTIONS_MAX;
use crate::rpc::v1::GetNodeInfoRequest;
use crate::rpc::v1::coordinator_server::CoordinatorServer;
use crate::rpc::v1::members_server::MembersServer;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::raft_server::RaftServer;
use crate::rpc::v1::zones_server::ZonesServer;
use crate::rpc::{BATCH_MESSAGE_BYTES_MAX, ClusterCheck, Dial, MESSAGE_BYTES_MAX};
use crate::task::Tasks;
use crate::task::watch;
use crate::telemetry::Metrics;

/// Longest time between two looks whether the consensus core still runs. Its end is told at once.
const CORE_LOOK: Duration = Duration::from_secs(5);

/// Longest that a coordinator which is told to end waits for another to lead: well within the time that
/// supervisors give a process to stop.
const RETIRE_MAX: Duration = Duration::from_secs(8);

/// Least time between two looks at the head for its gauge.
const HEAD_LOOK: Duration = Duration::from_millis(100);

/// A running coordinator.
pub struct Coordinator {
    id: u64,
    timing: Timing,
    raft: Raft,
    peers: PeerDirectory,
    /// Why it must not take part, once that is known.
    refused: watch::Receiver<Option<String>>,
    log: Log,
    address: SocketAddr,
    tasks: Tasks,
}

impl Coordinator {
    /// Opens the data directory, joins the group and serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        // Before anything is made in a directory that may be another's.
        if settings.data.exists() {
            let disk = Directory::open(&settings.data)
                .map_err(|error| StartError::Data(settings.data.clone(), error))?;
            DataDirIdentity::take(Arc::new(disk), &settings)
                .map_err(|error| StartError::Identity(settings.id, settings.data.clone(), error))?;
        }
        let connections = room_for(own_files(&settings), CONNECTIONS_MAX)?;
        let listener = TcpListener::bind(settings.listen).await;
        let listener = listener.map_err(|error| StartError::Listen(settings.listen, error))?;
        let address = listener.local_addr().map_err(|e| StartError::Listen(settings.listen, e))?;
        let host = Host::machine_with(&settings.data, listener, connections)
            .map_err(|error| StartError::Data(settings.data.clone(), error))?;
        Self::start_on(host, address, settings).await
    }

    /// As [`Self::start`], on any host; `address` is where that host serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_on(
        host: Host,
        address: SocketAddr,
        settings: Settings,
    ) -> Result<Self, StartError> {
        let tasks = Tasks::default();
        let opened = Opened::open((host.log, Arc::clone(&host.snapshots)), &settings).await?;
        let (peers, vote_withholding) = (peers(&settings, host.dial), vote_withholding(&settings));
        let traffic_guard =
            RaftTrafficGuard::new(settings.id, opened.identity.incarnation(), peers.clone());
        let Opened { identity, disk_reserve, log, store, acks, peer_history, driver, machine } =
            opened;
        let raft =
            raft(&settings, (&peers, &traffic_guard, &vote_withholding), &store, machine).await?;
        let me = node_info(&settings, &identity, &raft, &peers).await?;
        let (id, clock, metrics) = (settings.id, host.clock, Arc::clone(&settings.metrics));
        let format_support = FormatSupport::new(id, &raft, &peers, driver.zones());
        let leader_client = LeaderClient::new(
            id,
            &raft,
            &metrics,
            peers.clone(),
            format_support.clone(),
            clock,
            &tasks,
        );
        let write_rates = WriteRates::new(&me.zone);
        let rtt_monitor =
            rtt_monitor(&settings, &peers, (&disk_reserve, &write_rates), host.snapshots);
        let members = members(&settings, &raft, &peers, &rtt_monitor, &tasks);
        let zone_progress = ZoneProgressView::new(&driver, &store, settings.zones.clone());
        let registrar =
            Registrar::new(&leader_client, &zone_progress.zones, peers.rpc_timeout() * 4);
        CommitTask::start(&acks, &traffic_guard, &driver, &store, &settings.metrics, &tasks);
        AckStream::start(id, &acks, &traffic_guard, &peers, &raft, &tasks);
        let read_index = ReadIndexBarrier::new(&raft, &store, &driver, peers.rpc_timeout() * 4);
        let services = Services {
            raft: RaftService {
                raft: raft.clone(),
                traffic_guard: traffic_guard.clone(),
                responder: AdmissionResponder::new(&me, &raft, &peers, &peer_history),
                rtt_monitor: rtt_monitor.clone(),
                vote_withholding,
                leader_contact: IdleHeartbeats::start(&settings, &raft, &store, &tasks),
                metrics: Arc::clone(&metrics),
                acks,
                end: tasks.signal(),
            },
            coordinator: CoordinatorService::new(
                id,
                (leader_client.clone(), read_index.clone()),
                &zone_progress,
                tails(&settings, &driver, &store, &tasks),
                disk_reserve.clone(),
                write_rates,
                peers.rpc_timeout() * 4,
            ),
            members,
            zones: ZoneService {
                registrar: registrar.clone(),
                zone_progress: zone_progress.clone(),
            },
        };
        (host.serve)(services.routes(&settings.cluster), &tasks);
        let (refusal, refused) = watch::channel(None);
        let admission = Admission {
            me,
            raft: raft.clone(),
            peers: peers.clone(),
            traffic_guard,
            identity,
            log: store.clone(),
            peer_history: peer_history.clone(),
            refused: refusal,
        };
        disk_reserve.start(&raft, &store, &metrics, &tasks);
        let maintenance = RetentionTask::new(&raft, store, &driver, zone_progress, &settings).run();
        tasks.spawn("admission", admission.run());
        tasks.spawn("sightings", peer_history.follow(raft.clone(), peers.clone()));
        tasks.spawn("distances", rtt_monitor.run());
        tasks.spawn("maintenance", maintenance);
        tasks.spawn("registrar", registrar.run());
        tasks.spawn("metrics", follow_head(Arc::clone(&driver), metrics));
        tasks.spawn(
            "completeness",
            recovery_progress::report_caught_up(id, address, leader_client, read_index, driver),
        );
        Ok(Self { id, timing: settings.timing, raft, peers, refused, log, address, tasks })
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves with the reason when the process should end by itself: the consensus core has
    /// stopped, since a disk failed or an entry cannot be read by this version, or the other
    /// coordinators know that this one must not take part.
    pub async fn stopped(&self) -> String {
        let mut refused = self.refused.clone();
        tokio::select! {
            biased;
            Ok(why) = refused.wait_for(Option::is_some) => why.clone().unwrap_or_default(),
            why = self.core_stopped() => why,
        }
    }

    /// Waits for changes of the leadership, which end when the core does: the other metrics change with
    /// every entry, and each change would wake this.
    async fn core_stopped(&self) -> String {
        use openraft::async_runtime::watch::WatchReceiver as _;
        let (metrics, mut server) = (self.raft.metrics(), self.raft.server_metrics());
        loop {
            let changed = tokio::time::timeout(CORE_LOOK, server.changed()).await;
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return format!("the consensus core has stopped: {fatal}");
            }
            if matches!(changed, Ok(Err(_))) {
                return "the consensus core is gone".to_owned();
            }
        }
    }

    /// Hands the lead over if it has it, which takes at most `RETIRE_MAX`, and no longer than another
    /// coordinator runs; then stops serving, stops Raft, flushes the log.
    pub async fn retire(self) {
        let targets: BTreeSet<u64> = self.raft.voter_ids().collect();
        if leader(&self.raft) == Some(self.id) && targets.len() > 1 {
            let limit = Limit { target: self.timing.lease() * 2, all: RETIRE_MAX };
            let done = tokio::select! {
                biased;
                done = transfer_leadership(&self.raft, self.id, &targets, limit) => done,
                () = self.last_to_go(&targets) => false,
            };
            if !done {
                tracing::warn!("leadership transfer failed, election follows after a timeout");
            }
        }
        self.stop().await;
    }

    /// Resolves when no other process of `voters` is there. One that does not answer may be busy.
    async fn last_to_go(&self, voters: &BTreeSet<u64>) {
        let is_there = async |id: u64| {
            let Some(connection) = self.peers.connection(id) else { return false };
            let mut client = RaftClient::new(connection);
            let call = client.get_node_info(GetNodeInfoRequest::default());
            !matches!(tokio::time::timeout(self.peers.rpc_timeout(), call).await, Ok(Err(_)))
        };
        loop {
            tokio::time::sleep(self.timing.lease()).await;
            let others = voters.iter().copied().filter(|id| *id != self.id);
            if !join_all(others.map(is_there)).await.contains(&true) {
                return;
            }
        }
    }

    /// Stops serving, stops Raft, flushes the log.
    pub async fn stop(self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus core shutdown failed");
        }
        self.tasks.shut_down().await;
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "log close failed");
        }
    }
}

/// Open files that no connection from outside may take: the segments of the log, which stay open, its own
/// connections to the others, and what every process needs.
fn own_files(settings: &Settings) -> usize {
    const FEW: usize = 32;
    /// Each over a connection of its own: appends, heartbeats, snapshots, acks.
    const TO_ANOTHER: usize = 4;
    let Retention { log_bytes_max, .. } = settings.retention;
    let segments = log_bytes_max.div_ceil(settings.retention.segment_bytes());
    let segments = usize::try_from(segments).unwrap_or(usize::MAX);
    let kept = kept_for_files(segments);
    if kept < segments {
        tracing::warn!(segments, kept, "open file limit below the log's maximum, raise it");
    }
    kept + FEW + settings.members.len().saturating_sub(1) * TO_ANOTHER
}

/// What is on the disks of a coordinator.
struct Opened {
    identity: DataDirIdentity,
    disk_reserve: DiskReserve,
    log: Log,
    store: LogStore,
    acks: ReplicationProgress,
    peer_history: PeerHistory,
    driver: Arc<SequencerDriver>,
    machine: StateMachine,
}

impl Opened {
    /// Opens everything as soon as there is room for it, and counts the start. The disks: the log's,
    /// and that of the snapshot and the small files.
    async fn open(
        (log_disk, disk): (Arc<dyn Disk>, Arc<dyn Disk>),
        settings: &Settings,
    ) -> Result<Self, StartError> {
        let data_error = |error| StartError::Data(settings.data.clone(), error);
        let identity_error =
            |error| StartError::Identity(settings.id, settings.data.clone(), error);
        let mut identity =
            DataDirIdentity::take(Arc::clone(&disk), settings).map_err(identity_error)?;
        let disk_reserve =
            DiskReserve::new(Arc::clone(&log_disk), settings.id, settings.retention.reserve_bytes);
        disk_reserve.room_to_open().await;
        let log_dir = settings.data.join("log");
        let log = Log::open_on(Arc::clone(&log_disk), &log_dir, log_options(&settings.retention))
            .map_err(StartError::Log)?;
        let (acks, metrics) =
            (ReplicationProgress::new(settings.id, settings.acks), &settings.metrics);
        let store = LogStore::new(log.clone(), Arc::clone(metrics), acks.clone());
        let store = store.map_err(data_error)?;
        identity.check(store.is_new()).map_err(identity_error)?;
        identity.count_start(log_disk.as_ref()).map_err(identity_error)?;
        let peer_history = PeerHistory::load(settings.id, Arc::clone(&disk)).map_err(data_error)?;
        let driver = Arc::new(SequencerDriver::new(
            settings.cluster.clone(),
            settings.retention.ring_bytes(),
        ));
        let snapshots = Snapshots::new(Arc::clone(&disk), &settings.data);
        snapshots.check(log.state().purged.map(|(index, _)| index)).map_err(data_error)?;
        let machine = StateMachine::new(Arc::clone(&driver), snapshots, Arc::clone(metrics));
        Ok(Self { identity, disk_reserve, log, store, acks, peer_history, driver, machine })
    }
}

/// Segments that are small beside what the log may take, and a memory of the newest entries no larger
/// than it.
fn log_options(retention: &Retention) -> Options {
    let (segment_bytes, options) = (retention.segment_bytes(), Options::default());
    let grow_bytes = options.grow_bytes.min(segment_bytes);
    let cache_bytes = options.cache_bytes.min(retention.ring_bytes());
    Options { segment_bytes, grow_bytes, cache_bytes, ..options }
}

fn peers(settings: &Settings, dial: Arc<dyn Dial>) -> PeerDirectory {
    let rpc_timeout = settings.timing.lease().max(Duration::from_millis(500));
    let urls = settings.members.iter().map(|(id, (_, url))| (*id, url.clone())).collect();
    PeerDirectory::new(dial, settings.cluster.clone(), urls, rpc_timeout)
}

fn vote_withholding(settings: &Settings) -> VoteWithholding {
    VoteWithholding::new(settings.timing, settings.geo.provisional)
}

fn rtt_monitor(
    settings: &Settings,
    peers: &PeerDirectory,
    known: (&DiskReserve, &WriteRates),
    disk: Arc<dyn Disk>,
) -> RttMonitor {
    let (id, Geo { auto, adapts, .. }) = (settings.id, settings.geo);
    let timing_advisor = TimingAdvisor::load(settings.timing, adapts, disk.as_ref());
    RttMonitor::load(id, peers, known, disk, auto, timing_advisor)
}

/// The service that changes the members, and the loop that moves the lead by it.
fn members(
    settings: &Settings,
    raft: &Raft,
    peers: &PeerDirectory,
    rtt_monitor: &RttMonitor,
    tasks: &Tasks,
) -> MembersService {
    let (id, lease) = (settings.id, settings.timing.lease());
    let topology_view =
        topology_view::TopologyView::new(rtt_monitor, settings.acks == Acks::AllToAll);
    let members = MembersService::new(id, raft, peers, lease, &topology_view, tasks);
    let placement =
        LeaderBalancer { id, raft: raft.clone(), topology_view, members: members.clone() };
    tasks.spawn("placement", placement.run());
    members
}

async fn raft(
    settings: &Settings,
    (peers, traffic_guard, vote_withholding): (&PeerDirectory, &RaftTrafficGuard, &VoteWithholding),
    store: &LogStore,
    machine: StateMachine,
) -> Result<Raft, StartError> {
    let appended = (settings.acks == Acks::AllToAll).then(|| store.appended());
    let network =
        Network::new(peers.clone(), traffic_guard.clone(), vote_withholding.clone(), appended);
    let config = Arc::new(raft_config(settings.timing)?);
    let raft = Raft::new(settings.id, config, network, store.clone(), machine).await;
    raft.map_err(|error| StartError::Raft(error.to_string()))
}

fn tails(
    settings: &Settings,
    driver: &Arc<SequencerDriver>,
    log: &LogStore,
    tasks: &Tasks,
) -> Tails {
    let (cluster, driver) = (settings.cluster.clone(), Arc::clone(driver));
    Tails { cluster, driver, log: log.clone(), tasks: tasks.clone() }
}

fn raft_config(timing: Timing) -> Result<Config, StartError> {
    let config = Config {
        cluster_name: "pghc".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.draw_min_ms,
        election_timeout_max: timing.lease_ms,
        install_snapshot_timeout: 60_000,
        // The log is what the zones are fed from: only maintenance may purge it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // The state machine is in memory: a restarted leader must be elected again.
        enable_leader_restore: Some(false),
        // A follower that has forgotten something is refused by `admission`; should one slip through,
        // the leader must not end with it.
        allow_log_reversion: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Settings(error.to_string()))
}

/// Keeps the gauge of the newest committed id, late by [`HEAD_LOOK`] at most: a task that every entry wakes
/// costs more than a number that is read every few seconds is worth.
async fn follow_head(driver: Arc<SequencerDriver>, metrics: Arc<Metrics>) {
    let mut head_id = driver.head_id();
    loop {
        metrics.coordinator.head_id.set(*head_id.borrow_and_update());
        if head_id.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(HEAD_LOOK).await;
    }
}

/// What is served.
struct Services {
    raft: RaftService,
    coordinator: CoordinatorService,
    members: MembersService,
    zones: ZoneService,
}

impl Services {
    fn routes(self, cluster: &ClusterId) -> Routes {
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
