//! Bounds a coordinator's incoming connections; each must soon make a call of the cluster.
//!
//! Invariant: a silent or foreign connection costs one descriptor for [`PATIENCE`] at most, and is
//! closed at once when a new connection finds the limit reached. Connections of the cluster's
//! processes stay; HTTP/2 pings close those with a dead peer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use crate::connections::{Guest, Seat, Seats};

/// Most connections of a coordinator: a zone's nodes take a few each, another coordinator four.
pub const CONNECTIONS_MAX: usize = 1024;

/// Time of a new connection until its first call of the cluster.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after the operating system refused a connection, usually for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Streams the connections of `listener`, at most `most`; each has `patience` for its first call.
pub fn incoming(
    listener: TcpListener,
    most: usize,
    patience: Duration,
) -> impl Stream<Item = io::Result<Guarded>> {
    let seats = Seats::new(most);
    futures::stream::unfold((listener, seats), move |(listener, seats)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let caller = Arc::new(Caller::new());
                    let Some(seat) = seats.admit(&caller).await else {
                        tracing::warn!(most, "connection refused, limit reached");
                        continue;
                    };
                    // Fails only for a connection that is already closed.
                    let _ = stream.set_nodelay(true);
                    let silence = Some(Box::pin(tokio::time::sleep(patience)));
                    let guarded = Guarded { stream, caller, silence, _seat: seat };
                    return Some((Ok(guarded), (listener, seats)));
                }
                Err(error) => {
                    tracing::warn!(%error, "connection accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Remote end of a connection.
#[derive(Debug)]
pub struct Caller {
    since: Instant,
    is_known: AtomicBool,
    dismissed: AtomicBool,
    task: AtomicWaker,
}

impl Caller {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            is_known: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }
}

impl Guest for Caller {
    fn idle_since(&self) -> Option<Instant> {
        (!self.is_known.load(Relaxed) && !self.dismissed.load(Relaxed)).then_some(self.since)
    }

    fn dismiss(&self) {
        self.dismissed.store(true, Relaxed);
        self.task.wake();
    }
}

/// Marks a call's connection as one of the cluster's.
#[derive(Debug, Clone)]
pub struct CallerInfo(Arc<Caller>);

impl CallerInfo {
    /// Records a call of the cluster on this connection.
    pub fn is_ours(&self) {
        self.0.is_known.store(true, Relaxed);
    }
}

/// A connection that ends when dismissed, or when silent for too long.
#[derive(Debug)]
pub struct Guarded {
    stream: TcpStream,
    caller: Arc<Caller>,
    /// Deadline of the first call of the cluster; `None` after that call.
    silence: Option<Pin<Box<Sleep>>>,
    _seat: Seat<Caller>,
}

impl Guarded {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(silence) = &mut self.silence else { return Ok(()) };
        if self.caller.is_known.load(Relaxed) {
            self.silence = None;
            return Ok(());
        }
        self.caller.task.register(cx.waker());
        if self.caller.dismissed.load(Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "another one needs its place",
            ));
        }
        match silence.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no call of this cluster came"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Guarded {
    type ConnectInfo = CallerInfo;

    fn connect_info(&self) -> CallerInfo {
        CallerInfo(Arc::clone(&self.caller))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use futures::StreamExt as _;
    use parking_lot::Mutex;
    use pghc_api::id::ClusterId;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tonic::service::interceptor::InterceptedService;
    use tonic::{Request, Response, Status};

    use super::{Connected as _, PATIENCE, incoming};
    use crate::rpc::v1::zones_client::ZonesClient;
    use crate::rpc::v1::zones_server::{Zones, ZonesServer};
    use crate::rpc::v1::{ChangeZoneReply, ChangeZoneRequest, ListZonesReply, ListZonesRequest};
    use crate::rpc::{ClusterCheck, connect, server};
    use crate::task::Tasks;

    /// Answers every call of the cluster.
    struct Registry;

    #[tonic::async_trait]
    impl Zones for Registry {
        async fn list(
            &self,
            _: Request<ListZonesRequest>,
        ) -> Result<Response<ListZonesReply>, Status> {
            Ok(Response::new(ListZonesReply::default()))
        }

        async fn change(
            &self,
            _: Request<ChangeZoneRequest>,
        ) -> Result<Response<ChangeZoneReply>, Status> {
            Err(Status::unimplemented("nothing changes"))
        }
    }

    #[tokio::test]
    async fn cluster_call_marks_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let callers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&callers);
        let doors = incoming(listener, 4, PATIENCE).inspect(move |door| {
            seen.lock().extend(door.as_ref().ok().map(|door| Arc::clone(&door.caller)));
        });
        let ours: ClusterId = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let other: ClusterId = "0290a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let check = ClusterCheck::serving(&ours);
        let service = InterceptedService::new(ZonesServer::new(Registry), check);
        let tasks = Tasks::default();
        tasks.spawn("server", async move {
            let served = server().add_service(service).serve_with_incoming(Box::pin(doors)).await;
            served.expect("it serves");
        });
        for (cluster, is_ours) in [(&other, false), (&ours, true)] {
            let caller = connect(&format!("http://{address}"), cluster, PATIENCE).expect("a URL");
            let answer = ZonesClient::new(caller).list(ListZonesRequest::default()).await;
            assert_eq!(answer.is_ok(), is_ours, "{answer:?}");
            let caller = callers.lock().pop().expect("one came");
            assert_eq!(caller.is_known.load(Relaxed), is_ours);
        }
    }

    #[tokio::test]
    async fn silent_connection_ends_at_its_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut doors = Box::pin(incoming(listener, 2, Duration::from_millis(50)));
        let _client = TcpStream::connect(address).await.expect("it listens");
        let mut silent = doors.next().await.expect("one came").expect("a connection");
        let ended = silent.read(&mut [0; 8]).await.expect_err("it has said nothing");
        assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn oldest_unknown_connection_is_closed_at_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut doors = Box::pin(incoming(listener, 2, PATIENCE));
        let mut clients = Vec::new();
        let mut let_in = Vec::new();
        for number in 0..2 {
            clients.push(TcpStream::connect(address).await.expect("it listens"));
            let door = doors.next().await.expect("one came").expect("a connection");
            if number == 0 {
                door.connect_info().is_ours();
            }
            let_in.push(door);
        }
        let mut stranger = let_in.pop().expect("the second");
        clients.push(TcpStream::connect(address).await.expect("it listens"));
        let ended = async {
            let ended = stranger.read(&mut [0; 8]).await.expect_err("it gives way");
            drop(stranger);
            ended.kind()
        };
        let (next, ended) = tokio::join!(doors.next(), ended);
        assert_eq!(ended, std::io::ErrorKind::ConnectionAborted);
        next.expect("one came").expect("a connection").connect_info().is_ours();
        let mut known = let_in.pop().expect("the first");
        let waits = tokio::time::timeout(Duration::from_millis(50), known.read(&mut [0; 8])).await;
        assert!(waits.is_err(), "it is still open");
    }
}
