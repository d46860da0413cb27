//! One call for all heartbeats to a peer.
//!
//! openraft sends each heartbeat down a stream of its own. Opening one costs several times what the
//! heartbeat does, on both sides: headers, trailers, a task. A lane keeps the call open and sends the
//! next heartbeat down the same one. One heartbeat at a time is under way.

use futures::Stream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::rpc::v1::Frame;

/// See the module. Dropping it ends the call.
pub(crate) struct HeartbeatLane {
    piggyback_commits: mpsc::Sender<Frame>,
    answers: Streaming<Frame>,
}

impl HeartbeatLane {
    /// The requests of a call that begins with `first`, and the way to send more.
    pub(crate) fn piggyback_commits(
        first: Frame,
    ) -> (mpsc::Sender<Frame>, impl Stream<Item = Frame> + Send + 'static) {
        let (sender, piggyback_commits) = mpsc::channel(1);
        let rest = tokio_stream::wrappers::ReceiverStream::new(piggyback_commits);
        (sender, tokio_stream::StreamExt::chain(tokio_stream::once(first), rest))
    }

    /// A call that was opened with those requests.
    pub(crate) fn new(piggyback_commits: mpsc::Sender<Frame>, answers: Streaming<Frame>) -> Self {
        Self { piggyback_commits, answers }
    }

    /// Sends one more request and waits for its answer.
    pub(crate) async fn exchange(&mut self, request: Frame) -> Result<Frame, Status> {
        let sent = self.piggyback_commits.try_send(request);
        sent.map_err(|_| Status::unavailable("the call has ended"))?;
        self.answer().await
    }

    /// Waits for the answer to the request that was sent last.
    pub(crate) async fn answer(&mut self) -> Result<Frame, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::unavailable("the call has ended without an answer"))
    }
}
