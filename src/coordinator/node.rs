//! Starts and stops one coordinator.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use pghc_api::id::{ClusterId, ZoneName};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;

use super::forward::Forward;
use super::identity::Claim;
use super::log::{Log, Options};
use super::log_store::LogStore;
use super::maintenance::{Maintenance, Retention};
use super::network::Network;
use super::raft_service::RaftService;
use super::sequencing::Sequencing;
use super::service::CoordinatorService;
use super::snapshots::Snapshots;
use super::state_machine::StateMachine;
use super::tail::Tails;
use super::type_config::{Member, Raft};
use super::zones::Zones;
use super::{forward, service};
use crate::rpc::v1::coordinator_server::CoordinatorServer;
use crate::rpc::v1::raft_server::RaftServer;
use crate::rpc::{self, ClusterCheck, MESSAGE_BYTES_MAX};
use crate::task::Tasks;
use crate::telemetry::Metrics;

/// Raft timing in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats; must be above the largest round trip between coordinators, because
    /// a heartbeat that is not answered within it is given up.
    pub heartbeat_ms: u64,
    /// Least silence of the leader after which a follower stands for election.
    pub election_min_ms: u64,
    /// Most silence; also the leader's lease. Close to the least: a follower waits for both.
    pub election_max_ms: u64,
}

impl Timing {
    /// For coordinators within a millisecond or two of each other.
    pub const LAN: Self = Self { heartbeat_ms: 50, election_min_ms: 250, election_max_ms: 300 };
    /// For round trips up to some 350 ms.
    pub const WAN: Self = Self { heartbeat_ms: 400, election_min_ms: 1250, election_max_ms: 1500 };
}

/// What a coordinator is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This coordinator's Raft id, never used by another before.
    pub id: u64,
    /// Directory of log, vote and snapshot.
    pub data: PathBuf,
    /// Address to serve on.
    pub listen: SocketAddr,
    /// All coordinators, this one included: zone, and URL as reached from here.
    pub members: BTreeMap<u64, (ZoneName, String)>,
    /// Zones whose frontiers bound the purge of the log.
    pub zones: Vec<ZoneName>,
    /// Raft timing.
    pub timing: Timing,
    /// How much of the log is kept.
    pub retention: Retention,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
}

/// Why a coordinator did not start. Nothing was changed unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Wrong settings.
    #[error("{0}")]
    Settings(String),
    /// The address is taken or not ours.
    #[error("cannot listen on {0}; is another process using the port?")]
    Listen(SocketAddr, #[source] io::Error),
    /// The directory cannot be used.
    #[error("cannot use the data directory {}", .0.display())]
    Data(PathBuf, #[source] io::Error),
    /// The log is damaged or in use.
    #[error("cannot open the log")]
    Log(#[source] super::log::OpenError),
    /// openraft refused.
    #[error("the consensus core did not start: {0}")]
    Raft(String),
}

/// A running coordinator.
pub struct Coordinator {
    raft: Raft,
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
        let tasks = Tasks::default();
        let patience = Duration::from_millis(settings.timing.election_max_ms.max(500));
        let listener = TcpListener::bind(settings.listen).await;
        let listener = listener.map_err(|error| StartError::Listen(settings.listen, error))?;
        let address = listener.local_addr().map_err(|e| StartError::Listen(settings.listen, e))?;
        let data_error = |error| StartError::Data(settings.data.clone(), error);
        let claim =
            Claim::take(&settings.data, &settings.cluster, settings.id).map_err(data_error)?;
        let log =
            Log::open(&settings.data.join("log"), Options::default()).map_err(StartError::Log)?;
        let store = LogStore::new(log.clone(), Arc::clone(&settings.metrics));
        claim.check(store.is_new()).map_err(data_error)?;
        let sequencing = Arc::new(Sequencing::new(settings.cluster.clone()));
        let machine =
            StateMachine::new(Arc::clone(&sequencing), Snapshots::new(settings.data.clone()));
        let urls: BTreeMap<u64, String> =
            settings.members.iter().map(|(id, (_, url))| (*id, url.clone())).collect();
        let network = Network::new(settings.cluster.clone(), urls.clone(), patience);
        let config = Arc::new(raft_config(settings.timing)?);
        let raft = Raft::new(settings.id, config, network, store.clone(), machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let peers = forward::peers(&settings.cluster, &urls, patience)
            .map_err(|error| StartError::Settings(format!("a member's URL: {error}")))?;
        let forward = Forward::new(settings.id, &raft, &settings.metrics, peers, &tasks);

        let zone_names = settings.zones.iter().map(ToString::to_string).collect();
        let zones = Arc::new(Zones::new(zone_names, Instant::now()));
        let tails = Tails {
            cluster: settings.cluster.clone(),
            sequencing: Arc::clone(&sequencing),
            log: store.clone(),
            tasks: tasks.clone(),
        };
        let service = CoordinatorService {
            id: settings.id,
            forward,
            sequencing: Arc::clone(&sequencing),
            zones: Arc::clone(&zones),
            tails,
            submits: service::CoordinatorService::submits(),
            attempt_max: patience * 4,
        };
        serve(listener, &settings.cluster, raft.clone(), service, &tasks);
        initialize(&raft, &settings).await?;
        store.flushed().await.map_err(data_error)?;
        claim.founded().map_err(data_error)?;
        let maintenance = Maintenance {
            raft: raft.clone(),
            log: store,
            sequencing: Arc::clone(&sequencing),
            zones,
            retention: settings.retention,
            metrics: Arc::clone(&settings.metrics),
        };
        tasks.spawn("maintenance", maintenance.run());
        tasks.spawn("metrics", follow_head(sequencing, settings.metrics));
        tracing::info!(id = settings.id, %address, "coordinator started");
        Ok(Self { raft, log, address, tasks })
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves when the consensus core has stopped by itself, with the reason: a disk that failed,
    /// or an entry this version cannot read. The process should end then.
    pub async fn stopped(&self) -> String {
        use openraft::async_runtime::watch::WatchReceiver as _;
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "the consensus core is gone".to_owned();
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

fn raft_config(timing: Timing) -> Result<Config, StartError> {
    let config = Config {
        cluster_name: "pghc".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: 60_000,
        // The log is what the zones are fed from: only maintenance may purge it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // The state machine is in memory: a restarted leader must be elected again.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Settings(error.to_string()))
}

/// Keeps the gauge of the newest committed id.
async fn follow_head(sequencing: Arc<Sequencing>, metrics: Arc<Metrics>) {
    let mut head_id = sequencing.head_id();
    loop {
        metrics.coordinator.head_id.set(*head_id.borrow_and_update());
        if head_id.changed().await.is_err() {
            return;
        }
    }
}

/// Founds the group when this coordinator's log is empty. Every founder proposes the same first
/// entry, so it does not matter who is first.
async fn initialize(raft: &Raft, settings: &Settings) -> Result<(), StartError> {
    let member =
        |(id, (zone, _)): (&u64, &(ZoneName, String))| (*id, Member { zone: zone.to_string() });
    let members: BTreeMap<u64, Member> = settings.members.iter().map(member).collect();
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Raft(error.to_string())),
    }
}

fn serve(
    listener: TcpListener,
    cluster: &ClusterId,
    raft: Raft,
    service: CoordinatorService,
    tasks: &Tasks,
) {
    let check = ClusterCheck::serving(cluster);
    let raft = RaftServer::new(RaftService::new(raft))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let service = CoordinatorServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = rpc::server()
        .add_service(InterceptedService::new(raft, check.clone()))
        .add_service(InterceptedService::new(service, check));
    tasks.spawn("grpc server", async move {
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "the gRPC server ended");
        }
    });
}
