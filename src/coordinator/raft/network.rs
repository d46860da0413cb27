//! openraft's network: gRPC clients to the other coordinators.
//!
//! Appends are pipelined: requests flow down one stream as openraft yields them and answers come
//! back in order, so that a commit costs one round trip whatever is under way. Each peer has three
//! connections, because a heartbeat must not wait behind a megabyte of entries or a snapshot.
//! Heartbeats, which openraft hands over one by one, share one call (`heartbeat`).

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
use crate::rpc::v1::Frame;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::{Caller, MESSAGE_BYTES_MAX};
use crate::task::watch;

/// First and longest pause after a stream of appends could not be opened; each is twice the one
/// before.
const REOPEN_MIN: Duration = Duration::from_millis(5);
const REOPEN_MAX: Duration = Duration::from_millis(50);

/// A call without end that lasted so long was a good one, however it ended.
const GOOD_CALL: Duration = Duration::from_secs(1);

/// Bytes of a snapshot in one message.
const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

type RpcError = RPCError<TypeConfig>;

/// Makes clients to the members, as many as openraft wants.
pub(crate) struct Network {
    peers: PeerDirectory,
    traffic_guard: RaftTrafficGuard,
    vote_withholding: VoteWithholding,
    appended: Option<watch::Receiver<u64>>,
}

impl Network {
    /// `appended`: see [`piggyback_commits`].
    pub(crate) fn new(
        peers: PeerDirectory,
        traffic_guard: RaftTrafficGuard,
        vote_withholding: VoteWithholding,
        appended: Option<watch::Receiver<u64>>,
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
            retry: self.peers.patience() / 4,
            reopen: Pacing::default(),
            lane: None,
        }
    }
}

/// How long to wait before the next attempt to open a stream. openraft waits only before it sends
/// something down a stream that is open; a peer whose machine refuses connections at once would be
/// called thousands of times a second.
#[derive(Default)]
pub(crate) struct Pacing {
    pause: Duration,
}

impl Pacing {
    /// Answers whether it is the first failure in a row.
    pub(crate) fn failed(&mut self) -> bool {
        let is_first = self.pause.is_zero();
        self.pause = (self.pause * 2).clamp(REOPEN_MIN, REOPEN_MAX);
        is_first
    }

    /// Answers whether attempts had failed before.
    pub(crate) fn worked(&mut self) -> bool {
        !std::mem::take(&mut self.pause).is_zero()
    }

    /// A call that should have no end did end, after so long: it counts as a failure, so that who
    /// answers at once is not called without a pause. Answers whether it is the first in a row.
    pub(crate) fn ended(&mut self, after: Duration) -> bool {
        if after >= GOOD_CALL {
            self.worked();
        }
        self.failed()
    }

    /// How long to wait; nothing after what worked.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// How long to wait before a call that has `time` in all. A heartbeat that paused for all of its time would
    /// end before it is sent, neither failed nor worked, and so would every one after it.
    fn pause_within(&self, time: Duration) -> Duration {
        self.pause.min(time / 4)
    }
}

/// One connection to one peer.
pub(crate) struct Peer {
    target: u64,
    incarnation: String,
    /// None: neither the membership nor a setting has the peer's address.
    client: Option<RaftClient<Caller>>,
    traffic_guard: RaftTrafficGuard,
    vote_withholding: VoteWithholding,
    appended: Option<watch::Receiver<u64>>,
    retry: Duration,
    reopen: Pacing,
    /// The call down which heartbeats go, while it is open and none is under way.
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

    fn address<T>(&self, message: T) -> tonic::Request<T> {
        self.traffic_guard.address(message, &self.incarnation)
    }

    /// Opens a stream of appends. The connection attempt and a dead connection are bounded by the channel's
    /// patience; a stream that makes progress has no deadline.
    async fn open(
        &mut self,
        piggyback_commits: impl Stream<Item = Frame> + Send + 'static,
    ) -> Result<tonic::Streaming<Frame>, RpcError> {
        let mut piggyback_commits = self.address(piggyback_commits);
        self.vote_withholding.tell(&mut piggyback_commits);
        let opened = match self.client() {
            Ok(mut client) => client.append(piggyback_commits).await.map_err(unreachable),
            Err(error) => Err(error),
        };
        let target = self.target;
        match opened {
            Ok(answers) => {
                if self.reopen.worked() {
                    tracing::info!(coordinator = target, "it takes appends again");
                }
                Ok(answers.into_inner())
            }
            Err(error) => {
                if self.reopen.failed() {
                    tracing::warn!(coordinator = target, %error, "it takes no appends");
                }
                Err(error)
            }
        }
    }

    /// Has one heartbeat answered. The open call is used if it is still good, else another is opened. When
    /// this is dropped before the answer the call goes with it, so no answer is taken for a later one's.
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
                let (sender, piggyback_commits) = HeartbeatLane::piggyback_commits(message);
                let mut lane = HeartbeatLane::new(sender, self.open(piggyback_commits).await?);
                let answer = lane.answer().await.map_err(unreachable)?;
                (lane, answer)
            }
        };
        let answer: StreamAppendResult<TypeConfig> = decode(&answer.body).map_err(malformed)?;
        // The follower ends the call behind a refusal.
        self.lane = answer.is_ok().then_some(lane);
        Ok(answer)
    }
}

/// The one request of `input` if it is a heartbeat: without entries, with nothing behind it. Else the
/// requests that were looked at, to be put before the rest.
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

/// A request of one message with an answer of one message, by `deadline`.
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
            // It may end while it is looked at, and must not be asked again then.
            let mut input = input.fuse();
            let seen = match heartbeat_of(&mut input) {
                Ok(heartbeat) => {
                    let answer = self.heartbeat(&heartbeat).await?;
                    return Ok(futures::stream::once(async move { Ok(answer) }).boxed());
                }
                Err(seen) => seen,
            };
            // Dropped with the answers, whoever drops them: the way back does not end the way there.
            let gone = CancellationToken::new();
            let input = futures::stream::iter(seen).chain(input);
            let piggyback_commits = piggyback_commits(input, self.appended.clone(), gone.clone());
            let takes_answers = gone.drop_guard();
            let answers = self.open(piggyback_commits.map(|request| frame(&request))).await?;
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
        exchange(client.vote(self.address(frame(&request))), option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        exchange(client.pre_vote(self.address(frame(&request))), option.soft_ttl()).await
    }
}

impl NetTransferLeader<TypeConfig> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        exchange(client.transfer_leader(self.address(frame(&request))), option.soft_ttl()).await
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
        let sent = exchange(client.snapshot(self.address(frames)), option.hard_ttl());
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

    use super::{GOOD_CALL, Pacing, REOPEN_MAX, REOPEN_MIN};

    #[test]
    fn a_call_that_ends_is_made_again_after_a_pause_that_grows_unless_it_lasted() {
        let mut pacing = Pacing::default();
        assert!(pacing.ended(Duration::ZERO));
        assert_eq!(pacing.pause(), REOPEN_MIN);
        assert!((0..99).all(|_| !pacing.ended(GOOD_CALL / 2)));
        assert_eq!(pacing.pause(), REOPEN_MAX);
        assert!(pacing.ended(GOOD_CALL), "it had worked in between");
        assert_eq!(pacing.pause(), REOPEN_MIN);
    }

    #[test]
    fn a_pause_leaves_a_heartbeat_most_of_its_time() {
        let mut pacing = Pacing::default();
        assert!(pacing.pause_within(REOPEN_MAX).is_zero());
        for _ in 0..99 {
            pacing.failed();
        }
        // With the timing of a local network a heartbeat has as long as the longest pause.
        assert_eq!(pacing.pause_within(REOPEN_MAX), REOPEN_MAX / 4);
        assert_eq!(pacing.pause_within(REOPEN_MAX * 100), REOPEN_MAX);
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_called_ever_more_slowly_until_it_answers() {
        let mut pacing = Pacing::default();
        assert!(pacing.failed());
        assert_eq!(pacing.pause, REOPEN_MIN);
        assert!(!pacing.failed());
        assert_eq!(pacing.pause, REOPEN_MIN * 2);
        let failures = (0..99).filter(|_| pacing.failed()).count();
        assert_eq!(failures, 0, "only the first is told of");
        assert_eq!(pacing.pause, REOPEN_MAX);
        assert!(pacing.worked());
        assert!(pacing.pause.is_zero() && !pacing.worked());
    }
}
