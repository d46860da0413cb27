//! openraft's network: gRPC clients to the other coordinators.
//!
//! Appends are pipelined: requests flow down one stream and replies come back in order, so that a
//! commit costs one round trip. Appends, heartbeats and snapshots have a connection each per peer,
//! and acks a fourth (`quorum_acks`), because a heartbeat must not wait behind a megabyte of
//! entries. All heartbeats share one call (`heartbeat_lane`).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use pghc_runtime::rpc::v1::Frame;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::{Caller, MESSAGE_BYTES_MAX};
use pghc_runtime::task::fair_watch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::commit_piggyback::piggyback_commits;
use super::heartbeat_lane::HeartbeatLane;
use super::vote_withholding::VoteWithholding;
use crate::coordinator::consensus::codec::{decode, encode};
use crate::coordinator::consensus::type_config::{Member, Snapshot, TypeConfig, Vote};
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;

/// First and longest pause after a failed attempt to open an append stream; each pause doubles the
/// previous one.
const REOPEN_MIN: Duration = Duration::from_millis(5);
const REOPEN_MAX: Duration = Duration::from_millis(50);

/// Duration after which an endless call counts as successful, however it ends.
const GOOD_CALL_MIN: Duration = Duration::from_secs(1);

/// Bytes of a snapshot in one message.
const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

type RpcError = RPCError<TypeConfig>;

/// Creates clients to the members for openraft.
pub(crate) struct Network {
    peers: PeerDirectory,
    traffic_guard: RaftTrafficGuard,
    vote_withholding: VoteWithholding,
    appended: Option<fair_watch::Receiver<u64>>,
}

impl Network {
    /// `appended`: see [`piggyback_commits`].
    pub(crate) fn new(
        peers: PeerDirectory,
        traffic_guard: RaftTrafficGuard,
        vote_withholding: VoteWithholding,
        appended: Option<fair_watch::Receiver<u64>>,
    ) -> Self {
        Self { peers, traffic_guard, vote_withholding, appended }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        let url = self.peers.url(target, Some(member));
        let client = url.and_then(|url| self.peers.connect(&url)).map(|connection| {
            RaftClient::new(connection)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        Peer {
            target,
            incarnation: member.incarnation.clone(),
            client,
            traffic_guard: self.traffic_guard.clone(),
            vote_withholding: self.vote_withholding.clone(),
            appended: self.appended.clone(),
            retry: self.peers.rpc_timeout() / 4,
            reopen: ReopenBackoff::default(),
            lane: None,
        }
    }
}

/// Backoff before another attempt to open a stream.
///
/// openraft pauses only before it sends on an open stream; a machine that refuses connections would
/// be called thousands of times a second.
#[derive(Default)]
pub(crate) struct ReopenBackoff {
    pause: Duration,
}

impl ReopenBackoff {
    /// Records a failure; returns whether it is the first in a row.
    pub(crate) fn failed(&mut self) -> bool {
        let is_first = self.pause.is_zero();
        self.pause = (self.pause * 2).clamp(REOPEN_MIN, REOPEN_MAX);
        is_first
    }

    /// Records a success; returns whether attempts had failed before.
    pub(crate) fn worked(&mut self) -> bool {
        !std::mem::take(&mut self.pause).is_zero()
    }

    /// Records the end of an endless call that lasted for `after`. A short one counts as a failure,
    /// so that a peer that ends calls at once is not called in a loop. Returns whether it is the
    /// first in a row.
    pub(crate) fn ended(&mut self, after: Duration) -> bool {
        if after >= GOOD_CALL_MIN {
            self.worked();
        }
        self.failed()
    }

    /// Returns the pause; zero after a success.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Returns the pause before a call with the deadline `time`: a quarter of it at most. Otherwise
    /// a heartbeat would time out during its pause, and so would every later one.
    fn pause_within(&self, time: Duration) -> Duration {
        self.pause.min(time / 4)
    }
}

/// One connection to one peer.
pub(crate) struct Peer {
    target: u64,
    incarnation: String,
    /// `None` if neither the membership nor a setting has the peer's address.
    client: Option<RaftClient<Caller>>,
    traffic_guard: RaftTrafficGuard,
    vote_withholding: VoteWithholding,
    appended: Option<fair_watch::Receiver<u64>>,
    retry: Duration,
    reopen: ReopenBackoff,
    /// Open call for heartbeats, while none is in flight.
    lane: Option<HeartbeatLane>,
}

impl Peer {
    fn client(&self) -> Result<RaftClient<Caller>, RpcError> {
        if !self.traffic_guard.is_admitted() {
            let not_yet = Unreachable::from_string("this coordinator is not admitted yet");
            return Err(RPCError::Unreachable(not_yet));
        }
        self.client.clone().ok_or_else(|| {
            let target = self.target;
            RPCError::Unreachable(Unreachable::from_string(format!(
                "no address of coordinator {target} is known; start with --member {target}=…"
            )))
        })
    }

    fn stamp<T>(&self, message: T) -> tonic::Request<T> {
        self.traffic_guard.stamp(message, &self.incarnation)
    }

    /// Opens an append stream. The channel's timeout bounds the connection attempt and a dead
    /// connection; a stream in progress has no deadline.
    async fn open(
        &mut self,
        requests: impl Stream<Item = Frame> + Send + 'static,
    ) -> Result<tonic::Streaming<Frame>, RpcError> {
        let mut requests = self.stamp(requests);
        self.vote_withholding.stamp(&mut requests);
        let opened = match self.client() {
            Ok(mut client) => client.append(requests).await.map_err(unreachable),
            Err(error) => Err(error),
        };
        let target = self.target;
        match opened {
            Ok(answers) => {
                if self.reopen.worked() {
                    tracing::info!(coordinator = target, "append stream to peer recovered");
                }
                Ok(answers.into_inner())
            }
            Err(error) => {
                if self.reopen.failed() {
                    tracing::warn!(coordinator = target, %error, "append stream to peer failed");
                }
                Err(error)
            }
        }
    }

    /// Sends one heartbeat and waits for the reply, on the open call if it is still good. Dropping
    /// this future drops the call, so that no reply is taken for a later heartbeat's.
    async fn heartbeat(
        &mut self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let message = frame(request);
        let mut answered = None;
        if let Some(mut lane) = self.lane.take()
            && let Ok(answer) = lane.exchange(message.clone()).await
        {
            answered = Some((lane, answer));
        }
        let (lane, answer) = match answered {
            Some(answered) => answered,
            None => {
                let (sender, requests) = HeartbeatLane::requests(message);
                let mut lane = HeartbeatLane::new(sender, self.open(requests).await?);
                let answer = lane.answer().await.map_err(unreachable)?;
                (lane, answer)
            }
        };
        let answer: StreamAppendResult<TypeConfig> = decode(&answer.body).map_err(malformed)?;
        // After a rejection the follower ends the call.
        self.lane = answer.is_ok().then_some(lane);
        Ok(answer)
    }
}

/// Returns the request of `input` if it is a lone heartbeat without entries; else the requests read
/// so far, to be put before the rest.
fn heartbeat_of<S>(
    input: &mut S,
) -> Result<AppendEntriesRequest<TypeConfig>, Vec<AppendEntriesRequest<TypeConfig>>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    let Some(Some(first)) = input.next().now_or_never() else { return Err(Vec::new()) };
    if !first.entries.is_empty() {
        return Err(vec![first]);
    }
    match input.next().now_or_never() {
        Some(None) => Ok(first),
        Some(Some(second)) => Err(vec![first, second]),
        None => Err(vec![first]),
    }
}

fn unreachable(status: tonic::Status) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&status))
}

fn malformed(error: std::io::Error) -> RpcError {
    RPCError::Network(NetworkError::new(&error))
}

fn frame<T: Serialize>(value: &T) -> Frame {
    Frame { body: encode(value) }
}

/// Makes a call with one request and one reply, by `deadline`.
async fn exchange<T, F>(call: F, deadline: Duration) -> Result<T, RpcError>
where
    T: DeserializeOwned,
    F: Future<Output = Result<tonic::Response<Frame>, tonic::Status>>,
{
    let answer = tokio::time::timeout(deadline, call).await;
    let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
    decode(&answer.map_err(unreachable)?.into_inner().body).map_err(malformed)
}

impl NetBackoff<TypeConfig> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(self.retry)))
    }
}

impl NetStreamAppend<TypeConfig> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let pause = self.reopen.pause_within(option.hard_ttl());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            // The stream may end here and must not be polled again.
            let mut input = input.fuse();
            let seen = match heartbeat_of(&mut input) {
                Ok(heartbeat) => {
                    let answer = self.heartbeat(&heartbeat).await?;
                    return Ok(futures::stream::once(async move { Ok(answer) }).boxed());
                }
                Err(seen) => seen,
            };
            // Dropping the response stream must end the request stream too; HTTP/2 does not do this
            // by itself.
            let gone = CancellationToken::new();
            let input = futures::stream::iter(seen).chain(input);
            let requests = piggyback_commits(input, self.appended.clone(), gone.clone());
            let takes_answers = gone.drop_guard();
            let answers = self.open(requests.map(|request| frame(&request))).await?;
            let results = answers.map(move |answer| {
                let _until_dropped = &takes_answers;
                let answer = answer.map_err(unreachable)?;
                decode::<StreamAppendResult<TypeConfig>>(&answer.body).map_err(malformed)
            });
            Ok(results.boxed())
        })
    }
}

impl NetVote<TypeConfig> for Peer {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        exchange(client.vote(self.stamp(frame(&request))), option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        exchange(client.pre_vote(self.stamp(frame(&request))), option.soft_ttl()).await
    }
}

impl NetTransferLeader<TypeConfig> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        exchange(client.transfer_leader(self.stamp(frame(&request))), option.soft_ttl()).await
    }
}

impl NetSnapshot<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client()?;
        let first = frame(&(vote, snapshot.meta, snapshot.snapshot.len() as u64));
        let mut rest = snapshot.snapshot;
        let pieces = std::iter::from_fn(move || {
            let length = rest.len().min(SNAPSHOT_PIECE_BYTES);
            (length > 0).then(|| Frame { body: rest.split_to(length) })
        });
        let frames = futures::stream::iter(std::iter::once(first).chain(pieces));
        let sent = exchange(client.snapshot(self.stamp(frames)), option.hard_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => Ok(answer?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{GOOD_CALL_MIN, REOPEN_MAX, REOPEN_MIN, ReopenBackoff};

    #[test]
    fn pause_grows_after_short_calls_only() {
        let mut pacing = ReopenBackoff::default();
        assert!(pacing.ended(Duration::ZERO));
        assert_eq!(pacing.pause(), REOPEN_MIN);
        assert!((0..99).all(|_| !pacing.ended(GOOD_CALL_MIN / 2)));
        assert_eq!(pacing.pause(), REOPEN_MAX);
        assert!(pacing.ended(GOOD_CALL_MIN), "it had worked in between");
        assert_eq!(pacing.pause(), REOPEN_MIN);
    }

    #[test]
    fn pause_leaves_a_heartbeat_most_of_its_time() {
        let mut pacing = ReopenBackoff::default();
        assert!(pacing.pause_within(REOPEN_MAX).is_zero());
        for _ in 0..99 {
            pacing.failed();
        }
        // With LAN timing a heartbeat's deadline equals the longest pause.
        assert_eq!(pacing.pause_within(REOPEN_MAX), REOPEN_MAX / 4);
        assert_eq!(pacing.pause_within(REOPEN_MAX * 100), REOPEN_MAX);
    }

    #[test]
    fn unreachable_peer_is_called_with_growing_pauses() {
        let mut pacing = ReopenBackoff::default();
        assert!(pacing.failed());
        assert_eq!(pacing.pause, REOPEN_MIN);
        assert!(!pacing.failed());
        assert_eq!(pacing.pause, REOPEN_MIN * 2);
        let failures = (0..99).filter(|_| pacing.failed()).count();
        assert_eq!(failures, 0, "only the first is reported");
        assert_eq!(pacing.pause, REOPEN_MAX);
        assert!(pacing.worked());
        assert!(pacing.pause.is_zero() && !pacing.worked());
    }
}
