//! Life cycle of one coordinator: start, retire, stop.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use pghc_runtime::connections::{kept_for_files, room_for};
use pghc_runtime::rpc::doors::CONNECTIONS_MAX;
use pghc_runtime::rpc::v1::GetNodeInfoRequest;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::task::{Tasks, fair_watch};
use tokio::net::TcpListener;

use super::admission::identity::DataDirIdentity;
use super::assembly::{Consensus, Parts, Services, Storage, spawn_background};
use super::environment::Environment;
use super::log::Log;
use super::log::disk::Directory;
use super::peers::directory::PeerDirectory;
use super::raft::handle::{Raft, leader};
use super::raft::leadership_transfer::{TransferLimit, transfer_leadership};
use super::settings::{Retention, Settings, StartError, Timing};

/// Longest time between two checks of the consensus core; its end wakes the check at once.
const CORE_CHECK_MAX: Duration = Duration::from_secs(5);

/// Longest wait for another leader before a stop, well within a supervisor's stop timeout.
const RETIRE_MAX: Duration = Duration::from_secs(8);

/// A running coordinator.
pub struct Coordinator {
    id: u64,
    timing: Timing,
    raft: Raft,
    peers: PeerDirectory,
    /// Reason of a rejected admission.
    refused: fair_watch::Receiver<Option<String>>,
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
        // Checked before any write: the directory may belong to another coordinator.
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
        let host = Environment::machine_with(&settings.data, listener, connections)
            .map_err(|error| StartError::Data(settings.data.clone(), error))?;
        Self::start_on(host, address, settings).await
    }

    /// Same as [`Self::start`], with injected dependencies; `address` is the served address.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_on(
        host: Environment,
        address: SocketAddr,
        settings: Settings,
    ) -> Result<Self, StartError> {
        let Environment { log, snapshots, dial, serve, clock } = host;
        let tasks = Tasks::default();
        let storage = Storage::open(log, Arc::clone(&snapshots), &settings).await?;
        let consensus = Consensus::start(&settings, dial, &storage).await?;
        let parts = Parts::build(&settings, &storage, &consensus, clock, snapshots, &tasks);
        let services = Services::build(&settings, &storage, &consensus, &parts, &tasks);
        serve(services.routes(&settings.cluster), &tasks);
        let log = storage.log.clone();
        let refused = spawn_background(&settings, address, storage, &consensus, parts, &tasks);
        let Consensus { raft, peers, .. } = consensus;
        Ok(Self {
            id: settings.id,
            timing: settings.timing,
            raft,
            peers,
            refused,
            log,
            address,
            tasks,
        })
    }

    /// Returns the served address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves with the reason when the process must end by itself.
    ///
    /// Either the consensus core has stopped, since a disk failed or an entry is unreadable for this
    /// version, or the peers have rejected this coordinator.
    pub async fn stopped(&self) -> String {
        let mut refused = self.refused.clone();
        tokio::select! {
            biased;
            Ok(why) = refused.wait_for(Option::is_some) => why.clone().unwrap_or_default(),
            why = self.core_stopped() => why,
        }
    }

    /// Resolves when the core has stopped. Leadership changes end with the core; the other metrics
    /// change with every entry, and each change would wake this task.
    async fn core_stopped(&self) -> String {
        use openraft::async_runtime::watch::WatchReceiver as _;
        let (metrics, mut server) = (self.raft.metrics(), self.raft.server_metrics());
        loop {
            let changed = tokio::time::timeout(CORE_CHECK_MAX, server.changed()).await;
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return format!("the consensus core has stopped: {fatal}");
            }
            if matches!(changed, Ok(Err(_))) {
                return "the consensus core is gone".to_owned();
            }
        }
    }

    /// Transfers leadership if this coordinator leads, then stops serving, stops Raft and flushes the
    /// log. The transfer takes at most 8 s and ends when no other coordinator runs.
    pub async fn retire(self) {
        let targets: BTreeSet<u64> = self.raft.voter_ids().collect();
        if leader(&self.raft) == Some(self.id) && targets.len() > 1 {
            let limit = TransferLimit { target: self.timing.lease() * 2, all: RETIRE_MAX };
            let done = tokio::select! {
                biased;
                done = transfer_leadership(&self.raft, self.id, &targets, limit) => done,
                () = self.others_stopped(&targets) => false,
            };
            if !done {
                tracing::warn!("leadership transfer failed, election follows after a timeout");
            }
        }
        self.stop().await;
    }

    /// Resolves when no other process of `voters` runs. A process that does not answer may be busy.
    async fn others_stopped(&self, voters: &BTreeSet<u64>) {
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

/// Returns the number of descriptors reserved from incoming connections: log segments, which stay
/// open, connections to the other coordinators, and 32 for the process.
fn own_files(settings: &Settings) -> usize {
    const FEW: usize = 32;
    /// Connections to another coordinator: appends, heartbeats, snapshots, acks.
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
