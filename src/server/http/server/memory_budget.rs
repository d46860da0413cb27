//! The bytes that all requests of this node may hold at a time: bodies on their way in, answers on
//! their way out.
//!
//! Invariant: what a client can make this node keep in memory is counted here, whatever the number of
//! connections: bodies until the queue of writes counts them, answers until the client has taken them.
//! A body or an answer that finds no room is refused with `busy`; the parts of a bulk write wait instead.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use pghc_api::error::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::response::ApiError;

/// Answers up to this size are not counted: connections are bounded, and so are these.
const SMALL_BYTES: u64 = 16 << 10;

/// The bytes that are free.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    /// Each of the two when nothing is taken.
    half: usize,
}

/// Bytes that are taken; free again when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Share(Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    /// Half of `bytes` for bodies, half for answers.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let half = (bytes / 2).min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (bodies, answers) = (Arc::new(Semaphore::new(half)), Arc::new(Semaphore::new(half)));
        Arc::new(Self { bodies, answers, half })
    }

    /// MemoryBudget for bytes of a body, if there is any now.
    pub(crate) fn body(&self, bytes: usize) -> Result<Share, ApiError> {
        let taken = Arc::clone(&self.bodies).try_acquire_many_owned(self.permits(bytes));
        taken.map(|permit| Share(Some(permit))).map_err(|_| busy())
    }

    /// MemoryBudget for bytes of a body, as soon as there is some.
    pub(crate) async fn body_in_time(&self, bytes: usize) -> Share {
        Share(Arc::clone(&self.bodies).acquire_many_owned(self.permits(bytes)).await.ok())
    }

    /// MemoryBudget for an answer, as soon as there is some.
    pub(crate) async fn answer_in_time(&self, bytes: usize) -> Share {
        Share(Arc::clone(&self.answers).acquire_many_owned(self.permits(bytes)).await.ok())
    }

    /// Has a large answer keep its room until the client has taken it.
    pub(crate) fn hold(&self, response: Response) -> Result<Response, ApiError> {
        let size = response.body().size_hint().exact().unwrap_or_default();
        if size <= SMALL_BYTES {
            return Ok(response);
        }
        let permits = self.permits(usize::try_from(size).unwrap_or(usize::MAX));
        let taken = Arc::clone(&self.answers).try_acquire_many_owned(permits);
        let share = Share(Some(taken.map_err(|_| busy())?));
        Ok(response.map(|body| Body::new(Held { body, share: Some(share) })))
    }

    /// A body larger than the budget takes all of it.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.half)).unwrap_or(u32::MAX)
    }
}

impl Share {
    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Adds what another one holds.
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (None, theirs) => self.0 = theirs,
            (Some(_), None) => {}
        }
    }

    /// Splits so many bytes off, or all that it has.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        match &mut self.0 {
            Some(permit) if bytes < permit.num_permits() => Self(permit.split(bytes)),
            _ => Self(self.0.take()),
        }
    }

    /// `text` as bytes that keep this share for as long as they are in memory.
    pub(crate) fn kept_by(self, text: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Kept { text, _share: self })
    }
}

fn busy() -> ApiError {
    let detail = "the requests under way hold all the bytes that this node has for them";
    ApiError::new(ErrorCode::Busy, detail)
}

/// Bytes and the room that they take.
struct Kept<T> {
    text: T,
    _share: Share,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

/// A body whose one piece keeps its share until it has left for the network.
#[derive(Debug)]
struct Held {
    body: Body,
    share: Option<Share>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                let share = self.share.take().unwrap_or_default();
                frame.map_data(|data| share.kept_by(data))
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::response::Response;
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::MemoryBudget;

    #[tokio::test]
    async fn a_large_answer_keeps_its_room_until_it_is_taken() {
        let room = MemoryBudget::new(2 * 100_000);
        let large = || Response::new(Body::from(vec![b'x'; 60_000]));
        let first = room.hold(large()).expect("there is room");
        assert!(room.hold(large()).is_err(), "40,000 bytes are left");
        assert!(room.hold(Response::new(Body::from("small"))).is_ok(), "it is not counted");
        let bytes = first.into_body().collect().await.expect("whole").to_bytes();
        assert!(room.hold(large()).is_err(), "the bytes are still in memory");
        drop(bytes);
        assert!(room.hold(large()).is_ok());
    }

    #[tokio::test]
    async fn shares_are_split_added_and_given_back() {
        let room = MemoryBudget::new(2 * 10);
        let mut share = room.body(8).expect("there is room");
        assert!(room.body(3).is_err());
        let part = share.split(5);
        assert_eq!((share.bytes(), part.bytes()), (3, 5));
        let waits = room.body_in_time(7);
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        drop(part);
        let mut more = waits.await;
        more.add(share.split(100));
        assert_eq!((share.bytes(), more.bytes()), (0, 10));
        drop(more);
        assert_eq!(room.body(1_000).expect("all of it").bytes(), 10);
    }
}
