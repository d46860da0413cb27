//! Sends all heartbeats to a peer down one call.
//!
//! openraft opens a stream for each heartbeat. Opening a stream costs several times the heartbeat
//! on both sides: headers, trailers, a task. A lane keeps one call open, with one heartbeat in
//! flight.

use futures::Stream;
use pghc_runtime::rpc::v1::Frame;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Open call for heartbeats. Dropping it ends the call.
pub(crate) struct HeartbeatLane {
    requests: mpsc::Sender<Frame>,
    answers: Streaming<Frame>,
}

impl HeartbeatLane {
    /// Returns the requests of a call that begins with `first`, and a sender for further ones.
    pub(crate) fn requests(
        first: Frame,
    ) -> (mpsc::Sender<Frame>, impl Stream<Item = Frame> + Send + 'static) {
        let (sender, requests) = mpsc::channel(1);
        let rest = tokio_stream::wrappers::ReceiverStream::new(requests);
        (sender, tokio_stream::StreamExt::chain(tokio_stream::once(first), rest))
    }

    /// Wraps a call that was opened with those requests.
    pub(crate) fn new(requests: mpsc::Sender<Frame>, answers: Streaming<Frame>) -> Self {
        Self { requests, answers }
    }

    /// Sends one request and waits for its reply.
    pub(crate) async fn exchange(&mut self, request: Frame) -> Result<Frame, Status> {
        let sent = self.requests.try_send(request);
        sent.map_err(|_| Status::unavailable("the call has ended"))?;
        self.answer().await
    }

    /// Waits for the reply to the last request.
    pub(crate) async fn answer(&mut self) -> Result<Frame, Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::unavailable("the call has ended without an answer"))
    }
}
