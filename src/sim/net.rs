//! The virtual network: gRPC calls go from process to process without sockets, over [`LinkModel`] that
//! delay, stall and break them as TCP connections are.
//!
//! A sent message arrives late, in order, or its connection breaks. A cut network link stalls
//! messages; a connection over a link that stays cut breaks after the HTTP/2 keep-alive time. Tasks
//! of a call on the called side belong to the called process.

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use pghc_runtime::rpc::{Carrier, CarryError, Dial};
use pghc_runtime::task::fair_watch;
use pghc_runtime::task::process::Process;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;
use tower::{Service as _, util::BoxCloneSyncService};

use super::clock::sleep_until;

/// When the called side gives up a silent connection.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

/// Messages of one body that are under way at most; then its sender waits.
const UNDER_WAY_MAX: usize = 1_024;

/// Bytes of a message's head.
const HEAD_BYTES: usize = 64;

/// The network between hosts, which are numbered.
pub trait LinkModel: Send + Sync + 'static {
    /// Begins one direction of a connection.
    fn channel(&self, from: usize, to: usize) -> Box<dyn Channel>;

    /// Whether what travels comes through.
    fn link_state(&self, from: usize, to: usize) -> LinkState;
}

/// One direction of one connection.
pub trait Channel: Send + Sync {
    /// Takes a message of `bytes` bytes; returns its arrival time on an undisturbed link.
    fn send(&self, bytes: usize) -> Instant;
}

/// Whether what travels comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// The link is open; nothing passes before this time.
    Open(Instant),
    /// Messages wait.
    Stalled,
    /// Connections break, and new ones are refused.
    Broken,
}

/// Why a call ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("connection refused")]
    Refused(#[source] io::Error),
    #[error("no connection in time")]
    Connect,
    #[error("the connection broke")]
    Reset,
    #[error("no answer in time")]
    Timeout,
}

type Failure = Box<dyn Error + Send + Sync>;

struct Host {
    process: Option<Process>,
    routes: Option<Routes>,
    is_powered: bool,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Net {
    link_model: Arc<dyn LinkModel>,
    hosts: Arc<Mutex<Vec<Host>>>,
    changed: fair_watch::Sender<()>,
}

/// URL of a host.
#[must_use]
pub fn url(host: usize) -> String {
    format!("http://10.0.0.{host}:1")
}

impl Net {
    /// A network of `hosts` hosts without processes.
    #[must_use]
    pub fn new(hosts: usize, link_model: Arc<dyn LinkModel>) -> Self {
        let host = |_| Host { process: None, routes: None, is_powered: true };
        let hosts = Arc::new(Mutex::new((0..hosts).map(host).collect()));
        Self { link_model, hosts, changed: fair_watch::Sender::new(()) }
    }

    fn change<T>(&self, act: impl FnOnce(&mut Vec<Host>) -> T) -> T {
        let result = act(&mut self.hosts.lock());
        self.note();
        result
    }

    /// A process begins on a host.
    pub fn up(&self, host: usize, process: &Process) {
        self.change(|hosts| {
            let host = &mut hosts[host];
            (host.process, host.routes, host.is_powered) = (Some(process.clone()), None, true);
        });
    }

    /// Makes the host listen.
    pub fn listen(&self, host: usize, routes: Routes) {
        self.change(|hosts| hosts[host].routes = Some(routes.prepare()));
    }

    /// The process of a host has ended, or the power of the host.
    pub fn down(&self, host: usize, is_powered: bool) {
        self.change(|hosts| {
            let host = &mut hosts[host];
            (host.process, host.routes, host.is_powered) = (None, None, is_powered);
        });
    }

    /// A process was paused or resumed, or a network link has changed.
    pub fn note(&self) {
        self.changed.send_replace(());
    }

    /// Resolves when what should arrive at `arrival` has done so.
    async fn arrive(&self, from: usize, to: usize, arrival: Instant) {
        sleep_until(arrival).await;
        if let LinkState::Open(at) = self.link_model.link_state(from, to)
            && at <= Instant::now()
        {
            return;
        }
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let LinkState::Open(at) = self.link_model.link_state(from, to) {
                return sleep_until(at).await;
            }
            let _ = changed.changed().await;
        }
    }

    /// A message of no connection travels.
    async fn travel(&self, from: usize, to: usize) {
        let arrival = self.link_model.channel(from, to).send(HEAD_BYTES);
        self.arrive(from, to, arrival).await;
    }

    /// The dialer of a host.
    #[must_use]
    pub fn dialer(&self, from: usize) -> Dialer {
        Dialer { net: self.clone(), from }
    }
}

/// Reaches others from one host.
pub struct Dialer {
    net: Net,
    from: usize,
}

impl Dial for Dialer {
    fn dial(&self, url: &str, patience: Duration) -> Result<Carrier, tonic::transport::Error> {
        let host = url.rsplit('.').next().and_then(|end| end.split(':').next());
        let to = host.and_then(|number| number.parse().ok()).expect("a URL of this network");
        let line = Arc::new(Line {
            net: self.net.clone(),
            from: self.from,
            to,
            patience,
            connection: tokio::sync::Mutex::new(None),
        });
        Ok(BoxCloneSyncService::new(tower::service_fn(move |request| {
            let line = Arc::clone(&line);
            async move { line.call(request).await.map_err(|why| CarryError(Failure::from(why))) }
        })))
    }
}

/// State behind a carrier: at most one connection at a time.
struct Line {
    net: Net,
    from: usize,
    to: usize,
    patience: Duration,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    process: Process,
    routes: Routes,
    /// The calling side knows that it is broken.
    caller_end: CancellationToken,
    /// The called side does.
    called_end: CancellationToken,
    there: Arc<dyn Channel>,
    back: Arc<dyn Channel>,
}

impl Line {
    async fn connection(self: &Arc<Self>) -> Result<Connection, Broken> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|it| !it.caller_end.is_cancelled()) {
            return Ok(connection.clone());
        }
        let connection =
            timeout(self.patience, self.connect()).await.map_err(|_| Broken::Connect)??;
        *slot = Some(connection.clone());
        let (line, watched) = (Arc::clone(self), connection.clone());
        unowned(async move { line.watch(watched).await });
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, Broken> {
        let refused = || Broken::Refused(io::Error::from(io::ErrorKind::ConnectionRefused));
        for (from, to) in [(self.from, self.to), (self.to, self.from)] {
            if self.net.link_model.link_state(from, to) == LinkState::Broken {
                return Err(refused());
            }
        }
        self.net.travel(self.from, self.to).await;
        let mut changed = self.net.changed.subscribe();
        let found = loop {
            changed.borrow_and_update();
            let (process, routes, is_powered) = {
                let hosts = self.net.hosts.lock();
                let host = &hosts[self.to];
                (host.process.clone(), host.routes.clone(), host.is_powered)
            };
            if is_powered {
                break process.zip(routes);
            }
            let _ = changed.changed().await;
        };
        self.net.travel(self.to, self.from).await;
        let (process, routes) = found.ok_or_else(refused)?;
        let (caller_end, called_end) = (CancellationToken::new(), CancellationToken::new());
        let there = self.net.link_model.channel(self.from, self.to).into();
        let back = self.net.link_model.channel(self.to, self.from).into();
        Ok(Connection { process, routes, caller_end, called_end, there, back })
    }

    /// Whether what is sent over the connection comes back at the moment.
    fn is_well(&self, connection: &Connection) -> bool {
        let process = &connection.process;
        self.passes(self.from, self.to)
            && self.passes(self.to, self.from)
            && !process.is_paused()
            && !process.is_killed()
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        matches!(self.net.link_model.link_state(from, to), LinkState::Open(_))
    }

    /// Whether the network breaks connections.
    fn breaks(&self) -> bool {
        let is_broken = |from, to| self.net.link_model.link_state(from, to) == LinkState::Broken;
        is_broken(self.from, self.to) || is_broken(self.to, self.from)
    }

    /// Breaks the connection when nothing has come back for too long.
    async fn watch(self: Arc<Self>, connection: Connection) {
        let mut changed = self.net.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.is_well(&connection) {
                let _ = changed.changed().await;
                continue;
            }
            if self.breaks() {
                connection.caller_end.cancel();
                connection.called_end.cancel();
                return;
            }
            let is_reset = connection.process.is_killed()
                && self.net.hosts.lock()[self.to].is_powered
                && self.passes(self.to, self.from);
            if is_reset {
                // The operating system closes what a process leaves open.
                self.net.travel(self.to, self.from).await;
                break;
            }
            let gives_up = sleep(self.patience * 2);
            let well_again = async {
                while !self.is_well(&connection) && !self.breaks() {
                    let _ = changed.changed().await;
                }
            };
            tokio::select! {
                biased;
                () = well_again => {}
                () = gives_up => break,
            }
        }
        connection.caller_end.cancel();
        let _ = timeout(SERVER_PATIENCE, self.net.travel(self.from, self.to)).await;
        connection.called_end.cancel();
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Broken> {
        let within = deadline(&request);
        let call = self.carry(request);
        match within {
            Some(within) => timeout(within, call).await.unwrap_or(Err(Broken::Timeout)),
            None => call.await,
        }
    }

    async fn carry(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Broken> {
        let connection = self.connection().await?;
        // Dropped with the call or, later, with the body of its answer.
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        let (head, body) = request.into_parts();
        let channel = Arc::clone(&connection.there);
        let arrival = channel.send(HEAD_BYTES);
        let (there, arriving) =
            self.stream((self.from, self.to), channel, connection.called_end.clone());
        let caller = Process::current();
        own(caller.as_ref(), pump(body, there));
        let (sender, answer) = oneshot::channel();
        let (line, mut routes) = (Arc::clone(self), connection.routes.clone());
        let end = connection.called_end.clone();
        let channel = Arc::clone(&connection.back);
        let work = async move {
            line.net.arrive(line.from, line.to, arrival).await;
            let request = Request::from_parts(head, arriving);
            let Ok(response) = routes.call(request).await;
            let (head, body) = response.into_parts();
            let arrival = channel.send(HEAD_BYTES);
            let (back, arriving) =
                line.stream((line.to, line.from), channel, CancellationToken::new());
            let _ = sender.send((head, arriving, arrival));
            pump(body, back).await;
        };
        let line = Arc::clone(self);
        own(Some(&connection.process), async move {
            let cancelled = async {
                gone.cancelled().await;
                line.net.travel(line.from, line.to).await;
            };
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = cancelled => {}
                () = work => {}
            }
        });
        let answered = async {
            match answer.await {
                Ok((head, body, arrival)) => {
                    self.net.arrive(self.to, self.from, arrival).await;
                    (head, body)
                }
                // A called process that has ended is noticed by the connection alone.
                Err(_) => std::future::pending().await,
            }
        };
        let end = connection.caller_end.clone();
        let (head, body) = tokio::select! {
            biased;
            () = end.cancelled() => return Err(Broken::Reset),
            answered = answered => answered,
        };
        Ok(Response::from_parts(head, until(body, end, guard)))
    }

    /// A body on its way: what is put in at one end comes out at the other when it has arrived.
    fn stream(
        &self,
        (from, to): (usize, usize),
        channel: Arc<dyn Channel>,
        end: CancellationToken,
    ) -> (Sending, Body) {
        let (sender, receiver) = mpsc::channel::<(Instant, Message)>(UNDER_WAY_MAX);
        let sending = Sending { channel, sender };
        let state = (receiver, self.net.clone(), end);
        let frames = futures::stream::unfold(state, move |(mut queue, net, end)| async move {
            let next = async {
                match queue.recv().await {
                    Some((arrival, frame)) => {
                        net.arrive(from, to, arrival).await;
                        frame
                    }
                    // The sending process has ended in the middle.
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                biased;
                () = end.cancelled() => Some(Err(reset())),
                frame = next => frame,
            };
            frame.map(|frame| (frame, (queue, net, end)))
        });
        (sending, Body::new(StreamBody::new(frames)))
    }
}

fn reset() -> tonic::Status {
    tonic::Status::unavailable("the connection broke")
}

/// A part of a body; none: its end.
type Message = Option<Result<Frame<Bytes>, tonic::Status>>;

fn bytes_of(message: &Message) -> usize {
    let Some(Ok(frame)) = message else { return 0 };
    frame.data_ref().map_or(HEAD_BYTES, Bytes::len)
}

/// The sending end of a body on its way.
struct Sending {
    channel: Arc<dyn Channel>,
    sender: mpsc::Sender<(Instant, Message)>,
}

async fn pump(mut body: Body, to: Sending) {
    loop {
        let frame = tokio::select! {
            biased;
            () = to.sender.closed() => return,
            frame = body.frame() => frame,
        };
        let is_last = frame.as_ref().is_none_or(Result::is_err);
        let arrival = to.channel.send(bytes_of(&frame));
        if to.sender.send((arrival, frame)).await.is_err() || is_last {
            return;
        }
    }
}

/// The body, until the connection breaks; holds the guard of the call.
fn until(body: Body, end: CancellationToken, guard: impl Send + 'static) -> Body {
    let frames = futures::stream::unfold(Some((body, end, guard)), |state| async move {
        let (mut body, end, guard) = state?;
        let frame = tokio::select! {
            biased;
            () = end.cancelled() => return Some((Err(reset()), None)),
            frame = body.frame() => frame,
        };
        let frame = frame?;
        let is_last = frame.as_ref().map_or(true, Frame::is_trailers);
        Some((frame, (!is_last).then_some((body, end, guard))))
    });
    Body::new(StreamBody::new(frames))
}

/// Runs as part of `process`, or of none.
fn own(process: Option<&Process>, work: impl Future<Output = ()> + Send + 'static) {
    match process {
        Some(process) => drop(process.spawn(work)),
        None => unowned(work),
    }
}

/// Runs as part of no process: kernels and cables.
#[expect(clippy::disallowed_methods, reason = "no process supervises a cable")]
pub fn unowned(work: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(work));
}

/// The deadline that tonic wrote on the call.
fn deadline(request: &Request<Body>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (count, unit) = text.split_at(text.len() - 1);
    let count: u64 = count.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        _ => Duration::from_nanos(count),
    })
}
