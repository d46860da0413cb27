//! gRPC service for other coordinators: Raft messages, acks, admission, pings.

use std::fmt::Display;
use std::sync::Arc;

use bytes::BytesMut;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use pghc_runtime::rpc::v1::raft_server;
use pghc_runtime::rpc::v1::{
    self, AcksReply, CheckAdmissionReply, Frame, GetNodeInfoRequest, NodeInfo, PingReply,
    PingRequest,
};
use pghc_runtime::telemetry::Metrics;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::coordinator::admission::responder::AdmissionResponder;
use crate::coordinator::consensus::codec::{decode, encode};
use crate::coordinator::consensus::type_config::{Snapshot, SnapshotMeta, TypeConfig, Vote};
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::placement::rtt_monitor::RttMonitor;
use crate::coordinator::quorum_acks::progress::ReplicationProgress;
use crate::coordinator::quorum_acks::quorum::Ack;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::idle_heartbeats::LeaderContact;
use crate::coordinator::raft::vote_withholding::VoteWithholding;

/// Largest accepted snapshot: the key window takes about 60 MB, positions are small.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// Approximate size of a snapshot with a full key window.
const SNAPSHOT_BYTES_EXPECTED: u64 = 48 << 20;

pub(crate) struct RaftService {
    pub(crate) raft: Raft,
    pub(crate) traffic_guard: RaftTrafficGuard,
    pub(crate) responder: AdmissionResponder,
    pub(crate) rtt_monitor: RttMonitor,
    pub(crate) vote_withholding: VoteWithholding,
    pub(crate) leader_contact: LeaderContact,
    pub(crate) acks: ReplicationProgress,
    pub(crate) metrics: Arc<Metrics>,
    /// Shutdown signal: endless calls must not outlive the process.
    pub(crate) end: CancellationToken,
}

fn reply<T: Serialize, E: Display>(result: Result<T, E>) -> Result<Response<Frame>, Status> {
    let value = result.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(Response::new(Frame { body: encode(&value) }))
}

fn malformed(error: std::io::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<Frame, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.traffic_guard.check(request.metadata())?;
        let (vote_withholding, leader_contact) =
            (self.vote_withholding.clone(), self.leader_contact.clone());
        let silence = vote_withholding.requested_silence(request.metadata(), Instant::now());
        // An undecodable request ends the stream: the leader notices and opens another.
        let requests = tokio_stream::StreamExt::map_while(request.into_inner(), |frame| {
            let request = decode::<AppendEntriesRequest<TypeConfig>>(&frame.ok()?.body);
            request.inspect_err(|error| tracing::warn!(%error, "append rejected")).ok()
        });
        let answers = self.raft.stream_append(Box::pin(requests));
        let answers = answers.map(move |result| match result {
            Ok(result) => {
                let is_of_leader = !matches!(result, Err(StreamAppendError::HigherVote(_)));
                if is_of_leader {
                    let now = Instant::now();
                    leader_contact.note(now);
                    silence.into_iter().for_each(|silence| vote_withholding.record(silence, now));
                }
                Ok(Frame { body: encode(&result) })
            }
            Err(fatal) => Err(Status::unavailable(fatal.to_string())),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn acks(
        &self,
        request: Request<Streaming<v1::Ack>>,
    ) -> Result<Response<AcksReply>, Status> {
        self.traffic_guard.check(request.metadata())?;
        if !self.acks.is_on() {
            return Err(Status::unimplemented("this coordinator counts no acks"));
        }
        let voter = RaftTrafficGuard::sender(request.metadata());
        let voter = voter.ok_or_else(|| Status::invalid_argument("the call names no sender"))?;
        let mut acks = request.into_inner();
        let merge = async {
            while let Some(ack) = acks.message().await? {
                self.acks.record(voter, &Ack::from(ack));
            }
            Ok::<_, Status>(Response::new(AcksReply {}))
        };
        tokio::select! {
            biased;
            () = self.end.cancelled() => Err(Status::unavailable("the coordinator is shutting down")),
            ended = merge => ended,
        }
    }

    async fn vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        self.traffic_guard.check(request.metadata())?;
        let request: VoteRequest<TypeConfig> =
            decode(&request.into_inner().body).map_err(malformed)?;
        reply(self.raft.vote(request).await)
    }

    async fn pre_vote(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        self.traffic_guard.check(request.metadata())?;
        let request: VoteRequest<TypeConfig> =
            decode(&request.into_inner().body).map_err(malformed)?;
        let (vote, leader) = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote, metrics.current_leader)
        };
        if self.vote_withholding.withholds_vote(leader, Instant::now()) {
            self.metrics.coordinator.elections_deferred.inc();
            let refusal: VoteResponse<TypeConfig> = VoteResponse::new(vote, None, false);
            return Ok(Response::new(Frame { body: encode(&refusal) }));
        }
        reply(self.raft.pre_vote(request).await)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Frame>, Status> {
        self.traffic_guard.check(request.metadata())?;
        let mut frames = request.into_inner();
        let first = frames.message().await?.ok_or_else(|| Status::invalid_argument("no frame"))?;
        let (vote, meta, length): (Vote, SnapshotMeta, u64) =
            decode(&first.body).map_err(malformed)?;
        if length > SNAPSHOT_BYTES_MAX {
            return Err(Status::invalid_argument("the snapshot is larger than 1 GiB"));
        }
        // Allocates at most a usual snapshot's size before its bytes arrive.
        let room = length.min(SNAPSHOT_BYTES_EXPECTED);
        let mut state = BytesMut::with_capacity(usize::try_from(room).unwrap_or(0));
        while let Some(piece) = frames.message().await? {
            if (state.len() + piece.body.len()) as u64 > length {
                return Err(Status::invalid_argument("the snapshot is longer than announced"));
            }
            state.extend_from_slice(&piece.body);
        }
        if state.len() as u64 != length {
            return Err(Status::invalid_argument("the snapshot is shorter than announced"));
        }
        tracing::info!(bytes = length, "snapshot received");
        let snapshot = Snapshot { meta, snapshot: state.freeze() };
        reply(self.raft.install_full_snapshot(vote, snapshot).await)
    }

    async fn get_node_info(
        &self,
        request: Request<GetNodeInfoRequest>,
    ) -> Result<Response<NodeInfo>, Status> {
        Ok(Response::new(self.responder.meet(request.into_inner().members)))
    }

    async fn check_admission(
        &self,
        request: Request<NodeInfo>,
    ) -> Result<Response<CheckAdmissionReply>, Status> {
        self.responder.check_admission(&request.into_inner()).await.map(Response::new)
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        if let Some(from) = request.into_inner().from {
            self.rtt_monitor.merge(from);
        }
        Ok(Response::new(PingReply { from: Some(self.rtt_monitor.own_measurements()) }))
    }

    async fn transfer_leader(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        self.traffic_guard.check(request.metadata())?;
        let request: TransferLeaderRequest<TypeConfig> =
            decode(&request.into_inner().body).map_err(malformed)?;
        reply(self.raft.handle_transfer_leader(request).await)
    }
}
