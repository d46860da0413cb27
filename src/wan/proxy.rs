//! The TCP shell of the engine: a loopback listener per ordered zone pair that passes bytes both
//! ways, each way late by its link's delay.
//!
//! Invariants: bytes and order are kept; the end of a stream and a broken connection are delayed
//! like bytes; no byte passes a cut line. The proxy knows no protocol above TCP, and chunk borders
//! carry no meaning.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use pghc_runtime::task::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::lines::Lane;
use super::link::{Handshake, Link, PAYLOADS_MAX};
use super::stats::Counters;
use super::timer::{Frame, Timer};

/// Most connections one route carries at a time; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1_024;

/// Most bytes read at once, and the size of a block of memory that reads share.
const READ_BYTES_MAX: usize = 64 << 10;

/// A block with less room than this is left to what it holds, and a new one begun.
const READ_BYTES_MIN: usize = 4 << 10;

/// Pause after the system refused to accept, for example for want of file descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for the upstream to take a connection on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Data shared by all connections of a route.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) upstream: SocketAddr,
    pub(super) to_server: Lane,
    pub(super) to_client: Lane,
    pub(super) timer: Timer,
    pub(super) counters: Arc<Counters>,
    pub(super) tasks: Tasks,
}

/// Accepts connections of `route` until the process ends.
pub(super) async fn serve(listener: TcpListener, route: Route) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let (tasks, route) = (route.tasks.clone(), route.clone());
                tasks.spawn("wan connection", async move {
                    let _open = Open::new(&route.counters);
                    if let Err(error) = carry(client, &route).await {
                        tracing::debug!(%error, upstream = %route.upstream, "wan connection broke");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "wan accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a connection while it lives.
struct Open<'a>(&'a Counters);

impl<'a> Open<'a> {
    fn new(counters: &'a Counters) -> Self {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Carries one connection to its end.
async fn carry(client: TcpStream, route: &Route) -> io::Result<()> {
    let (to_server, to_client) = (route.to_server.clone(), route.to_client.clone());
    client.set_nodelay(true)?;
    // A SYN, or its answer, that is lost in silence is sent again until it comes through.
    let mut refused = to_server.open(&route.timer).await;
    if refused.is_ok() {
        refused = to_client.open(&route.timer).await;
    }
    let shake = Handshake::begin(Instant::now(), to_server.delay(), to_client.delay());
    if let Err(error) = refused {
        route.timer.sleep_until(shake.client).await;
        return Err(error);
    }
    route.timer.sleep_until(shake.syn_at_server).await;
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(route.upstream)).await;
    let server = match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(server) => server,
        Err(error) => {
            // The refusal travels back before the client's side closes.
            route.timer.sleep_until(shake.client).await;
            return Err(error);
        }
    };
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let forth = Direction::new(Link::new(shake.client), to_server.clone(), route);
    let back = Direction::new(Link::new(shake.server), to_client.clone(), route);
    let (opposite, forward) = (to_client.clone(), to_server.clone());
    tokio::select! {
        done = async {
            tokio::try_join!(
                forth.carry(client_read, server_write, &opposite),
                back.carry(server_read, client_write, &forward),
            )
        } => done.map(|_| ()),
        () = to_server.reset() => Err(io::ErrorKind::ConnectionReset.into()),
        () = to_client.reset() => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// One direction of one connection.
struct Direction<'a> {
    link: Mutex<Link>,
    lane: Lane,
    drained: Notify,
    timer: &'a Timer,
    counters: &'a Counters,
}

impl<'a> Direction<'a> {
    fn new(link: Link, lane: Lane, route: &'a Route) -> Self {
        let (timer, counters) = (&route.timer, route.counters.as_ref());
        Self { link: Mutex::new(link), lane, drained: Notify::new(), timer, counters }
    }

    /// Passes bytes on until the stream ends. `opposite` is the other direction, in which the news
    /// of a broken receiver must travel.
    async fn carry(
        &self,
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        opposite: &Lane,
    ) -> io::Result<()> {
        // One slot more than the link's payloads, for the end of the stream.
        let (sender, receiver) = mpsc::channel(PAYLOADS_MAX + 1);
        let reading = async {
            self.read(from, sender).await;
            Ok(())
        };
        tokio::try_join!(reading, self.write(to, receiver, opposite))?;
        Ok(())
    }

    /// Reads while the link has room.
    async fn read(&self, mut from: OwnedReadHalf, sender: mpsc::Sender<Frame>) {
        let mut buffer = BytesMut::new();
        loop {
            let room = loop {
                let room = self.link.lock().room_bytes();
                if room > 0 {
                    break room;
                }
                self.drained.notified().await;
            };
            // Bytes that wait for bandwidth are bounded: a full queue holds the sender.
            let full = self.lane.line().full_until(Instant::now());
            if let Some(until) = full {
                self.timer.sleep_until(until).await;
                continue;
            }
            // Small payloads share a block: one of its own for each would hold far more memory than
            // the window counts.
            if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
                buffer.reserve(READ_BYTES_MAX);
            }
            let mut limited = bytes::BufMut::limit(&mut buffer, room.min(READ_BYTES_MAX));
            let outcome = from.read_buf(&mut limited).await;
            let now = Instant::now();
            match outcome {
                Ok(count) if count > 0 => {
                    let deadline = self.link.lock().send(&mut self.lane.line(), now, count);
                    let frame = Frame::Bytes(buffer.split().freeze(), deadline);
                    self.timer.send_at(deadline, sender.clone(), frame);
                }
                ended => {
                    let frame = if ended.is_ok() { Frame::End } else { Frame::Reset };
                    let deadline = self.link.lock().close(&mut self.lane.line(), now);
                    self.timer.send_at(deadline, sender, frame);
                    return;
                }
            }
        }
    }

    /// Writes what is due.
    async fn write(
        &self,
        mut to: OwnedWriteHalf,
        mut receiver: mpsc::Receiver<Frame>,
        opposite: &Lane,
    ) -> io::Result<()> {
        loop {
            let mut idle_since = Instant::now();
            let frame = receiver.recv().await;
            if self.lane.open(self.timer).await? {
                // Time held back by a cut is not the emulator's lateness.
                idle_since = Instant::now();
            }
            match frame {
                Some(Frame::Bytes(bytes, deadline)) => {
                    // Time in which the receiver blocked the write is not the emulator's lateness.
                    let late = Instant::now().saturating_duration_since(deadline.max(idle_since));
                    // Counted before the write, so a receiver finds its bytes counted.
                    self.counters.passed(bytes.len(), late);
                    if let Err(error) = to.write_all(&bytes).await {
                        self.timer.sleep_until(Instant::now() + opposite.delay()).await;
                        return Err(error);
                    }
                    self.link.lock().delivered(bytes.len());
                    self.drained.notify_one();
                }
                Some(Frame::End) => return to.shutdown().await,
                Some(Frame::Reset) | None => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }
}
