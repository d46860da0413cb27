//! One connection's clock: which silence of the client is allowed, for how long.
//!
//! hyper has a timer for headers alone, and one allocation for each. Here the whole connection has
//! one timer and a few atomics: the I/O says when bytes come and go, the server says when a request
//! begins and ends, and [`Clock::due`] says when the connection is to be closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use pghc_runtime::connections::Guest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::limits::Limits;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The clock of one connection. The connection's task writes it; the task that closes idle connections
/// reads it.
#[derive(Debug)]
pub(crate) struct Clock {
    origin: Instant,
    head_read: Duration,
    keep_alive: Duration,
    write_stall: Duration,
    linger: Duration,
    /// Requests whose answer is not yet taken. Pipelining makes it more than one for a moment.
    requests: AtomicU64,
    /// Milliseconds from `origin` until which the client must have spoken, and whether it has begun
    /// to (see `head_begun`).
    read_by: AtomicU64,
    head_begun: AtomicU64,
    /// Milliseconds from `origin` until which the client must have taken what we write.
    write_by: AtomicU64,
    /// Milliseconds from `origin` to the end of the last request.
    idle_from: AtomicU64,
    dismissed: AtomicBool,
    task: AtomicWaker,
}

impl Clock {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let clock = Self {
            origin: Instant::now(),
            head_read: limits.head_read,
            keep_alive: limits.keep_alive,
            write_stall: limits.write_stall,
            linger: limits.linger,
            requests: AtomicU64::new(0),
            read_by: AtomicU64::new(NEVER),
            // A new connection counts as a head that has begun: it must not be silent for long.
            head_begun: AtomicU64::new(1),
            write_by: AtomicU64::new(NEVER),
            idle_from: AtomicU64::new(0),
            dismissed: AtomicBool::new(false),
            task: AtomicWaker::new(),
        };
        clock.read_by.store(clock.after(clock.head_read), Relaxed);
        Arc::new(clock)
    }

    /// When the connection is to be closed if nothing changes; `None` while the node works on a
    /// request.
    pub(crate) fn due(&self) -> Option<Instant> {
        let read_by =
            if self.requests.load(Relaxed) == 0 { self.read_by.load(Relaxed) } else { NEVER };
        let due = read_by.min(self.write_by.load(Relaxed));
        (due != NEVER).then(|| self.origin + Duration::from_millis(due))
    }

    /// Whether the connection was told to go and nothing keeps it. Its task is woken when it is told.
    pub(crate) fn goes(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.dismissed.load(Relaxed) && self.is_idle()
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Relaxed) == 0 && self.write_by.load(Relaxed) == NEVER
    }

    /// A request's head has been read.
    pub(crate) fn begin(self: &Arc<Self>) -> Begun {
        self.requests.fetch_add(1, Relaxed);
        self.head_begun.store(0, Relaxed);
        Begun(Arc::clone(self))
    }

    fn after(&self, wait: Duration) -> u64 {
        let millis = (self.origin.elapsed() + wait).as_millis();
        u64::try_from(millis).unwrap_or(NEVER)
    }

    fn bytes_came(&self) {
        if self.requests.load(Relaxed) == 0 && self.head_begun.swap(1, Relaxed) == 0 {
            self.read_by.store(self.after(self.head_read), Relaxed);
        }
    }

    fn write_waits(&self) {
        if self.write_by.load(Relaxed) == NEVER {
            self.write_by.store(self.after(self.write_stall), Relaxed);
        }
    }

    fn write_went(&self) {
        if self.write_by.load(Relaxed) != NEVER {
            self.write_by.store(NEVER, Relaxed);
        }
    }
}

impl Guest for Clock {
    fn idle_since(&self) -> Option<Instant> {
        let idles = self.is_idle() && !self.dismissed.load(Relaxed);
        idles.then(|| self.origin + Duration::from_millis(self.idle_from.load(Relaxed)))
    }

    fn dismiss(&self) {
        self.dismissed.store(true, Relaxed);
        self.task.wake();
    }
}

/// A request under way; ends when it is dropped, which is when its answer has been written.
#[derive(Debug)]
pub(crate) struct Begun(Arc<Clock>);

impl Drop for Begun {
    fn drop(&mut self) {
        let clock = &self.0;
        clock.read_by.store(clock.after(clock.keep_alive), Relaxed);
        clock.idle_from.store(clock.after(Duration::ZERO), Relaxed);
        clock.requests.fetch_sub(1, Relaxed);
    }
}

/// An answer's body that holds its request open until it is written.
#[derive(Debug)]
pub(crate) struct Answer {
    body: axum::body::Body,
    _begun: Begun,
}

impl Answer {
    pub(crate) fn new(body: axum::body::Body, begun: Begun) -> Self {
        Self { body, _begun: begun }
    }
}

impl Body for Answer {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream of a connection, which keeps the clock informed and closes without a reset.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    clock: Arc<Clock>,
    /// Whether our half is closed, and until when we swallow what still comes.
    closed: Option<Instant>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, clock: Arc<Clock>) -> Self {
        Self { stream, clock, closed: None }
    }

    fn noting_write<T>(&self, result: Poll<T>) -> Poll<T> {
        match &result {
            Poll::Pending => self.clock.write_waits(),
            Poll::Ready(_) => self.clock.write_went(),
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.clock.bytes_came();
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noting_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noting_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes our half and swallows what the client still sends, until it closes too or the linger
    /// time is over. Closing at once, with bytes unread, would reset the connection, and the client
    /// would lose an answer such as 413 that came before it had sent everything.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.closed = Some(Instant::now() + self.clock.linger);
            // The connection's timer wakes us at the end of the linger time.
            self.clock.write_by.store(self.clock.after(self.clock.linger), Relaxed);
        }
        let mut rest = [0; 4096];
        while self.closed.is_some_and(|until| Instant::now() < until) {
            let mut rest = ReadBuf::new(&mut rest);
            match Pin::new(&mut self.stream).poll_read(cx, &mut rest) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => {}
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
