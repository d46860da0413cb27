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

use super::admission::identity::Claim;
use super::admission::node_info::introduction;
use super::admission::peer_history::Sightings;
use super::admission::responder::Greeting;
use super::admission::startup::Admission;
use super::disk_reserve::Space;
use super::environment::Host;
use super::grpc::coordinator_service::CoordinatorService;
use super::grpc::raft_service::RaftService;
use super::grpc::zones_service::ZoneService;
use super::log::disk::{Directory, Disk};
use super::log::{Log, Options};
use super::members::leader_balancer::Placement;
use super::members::service::MembersService;
use super::ordering::leader_client::Forward;
use super::ordering::read_index::Confirmed;
use super::ordering::tail::Tails;
use super::peers::directory::Roster;
use super::peers::traffic_guard::Gate;
use super::placement::rtt_monitor::Distances;
use super::placement::timing_advisor::Pace;
use super::placement::topology_view;
use super::placement::write_rates::Traffic;
use super::quorum_acks::Acks;
use super::quorum_acks::ack_stream::Sending;
use super::quorum_acks::commit_task::Counting;
use super::quorum_acks::progress::Board;
use super::raft::format_support::Readers;
use super::raft::handle::{Raft, leader};
use super::raft::idle_heartbeats::Pulse;
use super::raft::leadership_transfer::{Limit, hand_over};
use super::raft::log_store::LogStore;
use super::raft::network::Network;
use super::raft::vote_withholding::Deference;
use super::recovery_progress;
use super::replica::driver::Sequencing;
use super::replica::snapshots::Snapshots;
use super::replica::state_machine::StateMachine;
use super::retention::Maintenance;
use super::settings::{Geo, Retention, Settings, StartError, Timing};
use super::zones::progress_view::Outlook;
use super::zones::registration::Registrar;
use crate::connections::{kept_for_files, room_for};
use crate::rpc::doors::CONNECTIONS_MAX;
use crate::rpc::v1::IntroduceRequest;
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
    roster: Roster,
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
            Claim::take(Arc::new(disk), &settings)
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
        let (roster, deference) = (roster(&settings, host.dial), deference(&settings));
        let gate = Gate::new(settings.id, opened.claim.incarnation(), roster.clone());
        let Opened { claim, space, log, store, acks, sightings, sequencing, machine } = opened;
        let raft = raft(&settings, (&roster, &gate, &deference), &store, machine).await?;
        let me = introduction(&settings, &claim, &raft, &roster).await?;
        let (id, clock, metrics) = (settings.id, host.clock, Arc::clone(&settings.metrics));
        let readers = Readers::new(id, &raft, &roster, sequencing.zones());
        let forward =
            Forward::new(id, &raft, &metrics, roster.clone(), readers.clone(), clock, &tasks);
        let traffic = Traffic::new(&me.zone);
        let distances = distances(&settings, &roster, (&space, &traffic), host.snapshots);
        let members = members(&settings, &raft, &roster, &distances, &tasks);
        let outlook = Outlook::new(&sequencing, &store, settings.zones.clone());
        let registrar = Registrar::new(&forward, &outlook.zones, roster.patience() * 4);
        Counting::start(&acks, &gate, &sequencing, &store, &settings.metrics, &tasks);
        Sending::start(id, &acks, &gate, &roster, &raft, &tasks);
        let confirmed = Confirmed::new(&raft, &store, &sequencing, roster.patience() * 4);
        let services = Services {
            raft: RaftService {
                raft: raft.clone(),
                gate: gate.clone(),
                greeting: Greeting::new(&me, &raft, &roster, &sightings),
                distances: distances.clone(),
                deference,
                heard: Pulse::start(&settings, &raft, &store, &tasks),
                metrics: Arc::clone(&metrics),
                acks,
                end: tasks.signal(),
            },
            coordinator: CoordinatorService::new(
                id,
                (forward.clone(), confirmed.clone()),
                &outlook,
                tails(&settings, &sequencing, &store, &tasks),
                space.clone(),
                traffic,
                roster.patience() * 4,
            ),
            members,
            zones: ZoneService { registrar: registrar.clone(), outlook: outlook.clone() },
        };
        (host.serve)(services.routes(&settings.cluster), &tasks);
        let (refusal, refused) = watch::channel(None);
        let admission = Admission {
            me,
            raft: raft.clone(),
            roster: roster.clone(),
            gate,
            claim,
            log: store.clone(),
            sightings: sightings.clone(),
            refused: refusal,
        };
        space.start(&raft, &store, &metrics, &tasks);
        let maintenance = Maintenance::new(&raft, store, &sequencing, outlook, &settings).run();
        tasks.spawn("admission", admission.run());
        tasks.spawn("sightings", sightings.follow(raft.clone(), roster.clone()));
        tasks.spawn("distances", distances.run());
        tasks.spawn("maintenance", maintenance);
        tasks.spawn("registrar", registrar.run());
        tasks.spawn("metrics", follow_head(Arc::clone(&sequencing), metrics));
        tasks.spawn(
            "completeness",
            recovery_progress::announce(id, address, forward, confirmed, sequencing),
        );
        Ok(Self { id, timing: settings.timing, raft, roster, refused, log, address, tasks })
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
        let heirs: BTreeSet<u64> = self.raft.voter_ids().collect();
        if leader(&self.raft) == Some(self.id) && heirs.len() > 1 {
            let limit = Limit { heir: self.timing.lease() * 2, all: RETIRE_MAX };
            let done = tokio::select! {
                biased;
                done = hand_over(&self.raft, self.id, &heirs, limit) => done,
                () = self.last_to_go(&heirs) => false,
            };
            if !done {
                tracing::warn!(
                    "no other coordinator took the lead over; one is elected after a timeout"
                );
            }
        }
        self.stop().await;
    }

    /// Resolves when no other process of `voters` is there. One that does not answer may be busy.
    async fn last_to_go(&self, voters: &BTreeSet<u64>) {
        let is_there = async |id: u64| {
            let Some(caller) = self.roster.caller(id) else { return false };
            let mut client = RaftClient::new(caller);
            let call = client.introduce(IntroduceRequest::default());
            !matches!(tokio::time::timeout(self.roster.patience(), call).await, Ok(Err(_)))
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
            tracing::warn!(%error, "the consensus core did not stop cleanly");
        }
        self.tasks.shut_down().await;
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the log did not close cleanly");
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
        tracing::warn!(
            segments,
            kept,
            "open files are limited to fewer than the log may need at its largest; raise the limit"
        );
    }
    kept + FEW + settings.members.len().saturating_sub(1) * TO_ANOTHER
}

/// What is on the disks of a coordinator.
struct Opened {
    claim: Claim,
    space: Space,
    log: Log,
    store: LogStore,
    acks: Board,
    sightings: Sightings,
    sequencing: Arc<Sequencing>,
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
        let mut claim = Claim::take(Arc::clone(&disk), settings).map_err(identity_error)?;
        let space =
            Space::new(Arc::clone(&log_disk), settings.id, settings.retention.reserve_bytes);
        space.room_to_open().await;
        let log_dir = settings.data.join("log");
        let log = Log::open_on(Arc::clone(&log_disk), &log_dir, log_options(&settings.retention))
            .map_err(StartError::Log)?;
        let (acks, metrics) = (Board::new(settings.id, settings.acks), &settings.metrics);
        let store = LogStore::new(log.clone(), Arc::clone(metrics), acks.clone());
        let store = store.map_err(data_error)?;
        claim.check(store.is_new()).map_err(identity_error)?;
        claim.count_start(log_disk.as_ref()).map_err(identity_error)?;
        let sightings = Sightings::load(settings.id, Arc::clone(&disk)).map_err(data_error)?;
        let sequencing =
            Arc::new(Sequencing::new(settings.cluster.clone(), settings.retention.ring_bytes()));
        let snapshots = Snapshots::new(Arc::clone(&disk), &settings.data);
        snapshots.check(log.state().purged.map(|(index, _)| index)).map_err(data_error)?;
        let machine = StateMachine::new(Arc::clone(&sequencing), snapshots, Arc::clone(metrics));
        Ok(Self { claim, space, log, store, acks, sightings, sequencing, machine })
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

fn roster(settings: &Settings, dial: Arc<dyn Dial>) -> Roster {
    let patience = settings.timing.lease().max(Duration::from_millis(500));
    let urls = settings.members.iter().map(|(id, (_, url))| (*id, url.clone())).collect();
    Roster::new(dial, settings.cluster.clone(), urls, patience)
}

fn deference(settings: &Settings) -> Deference {
    Deference::new(settings.timing, settings.geo.provisional)
}

fn distances(
    settings: &Settings,
    roster: &Roster,
    known: (&Space, &Traffic),
    disk: Arc<dyn Disk>,
) -> Distances {
    let (id, Geo { auto, adapts, .. }) = (settings.id, settings.geo);
    let pace = Pace::load(settings.timing, adapts, disk.as_ref());
    Distances::load(id, roster, known, disk, auto, pace)
}

/// The service that changes the members, and the loop that moves the lead by it.
fn members(
    settings: &Settings,
    raft: &Raft,
    roster: &Roster,
    distances: &Distances,
    tasks: &Tasks,
) -> MembersService {
    let (id, lease) = (settings.id, settings.timing.lease());
    let board = topology_view::Board::new(distances, settings.acks == Acks::AllToAll);
    let members = MembersService::new(id, raft, roster, lease, &board, tasks);
    let placement = Placement { id, raft: raft.clone(), board, members: members.clone() };
    tasks.spawn("placement", placement.run());
    members
}

async fn raft(
    settings: &Settings,
    (roster, gate, deference): (&Roster, &Gate, &Deference),
    store: &LogStore,
    machine: StateMachine,
) -> Result<Raft, StartError> {
    let appended = (settings.acks == Acks::AllToAll).then(|| store.appended());
    let network = Network::new(roster.clone(), gate.clone(), deference.clone(), appended);
    let config = Arc::new(raft_config(settings.timing)?);
    let raft = Raft::new(settings.id, config, network, store.clone(), machine).await;
    raft.map_err(|error| StartError::Raft(error.to_string()))
}

fn tails(
    settings: &Settings,
    sequencing: &Arc<Sequencing>,
    log: &LogStore,
    tasks: &Tasks,
) -> Tails {
    let (cluster, sequencing) = (settings.cluster.clone(), Arc::clone(sequencing));
    Tails { cluster, sequencing, log: log.clone(), tasks: tasks.clone() }
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
async fn follow_head(sequencing: Arc<Sequencing>, metrics: Arc<Metrics>) {
    let mut head_id = sequencing.head_id();
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
