//! The virtual network: gRPC calls go from process to process without sockets, over links that
//! delay, stall and break as TCP connections do.
//!
//! A message that was sent arrives late, in order, or the connection it is on breaks. A cut link
//! stalls messages; a connection over a link that stays cut breaks as HTTP/2 keep-alive would have
//! it. What runs for a call on the called side belongs to the called process.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use pghc::rpc::{Carrier, CarryError, Dial};
use pghc::task::process::Process;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;
use tower::{Service as _, util::BoxCloneSyncService};

use super::dice::Dice;

/// Retransmission after a cut ends, at most, in milliseconds.
const RETRANSMIT_MS: u64 = 200;

/// When the called side gives up a silent connection.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

/// Why a call ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("nobody listens")]
    Refused(#[source] io::Error),
    #[error("no connection in time")]
    Connect,
    #[error("the connection broke")]
    Reset,
    #[error("no answer in time")]
    Timeout,
}

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone)]
struct Link {
    is_cut: bool,
    /// Retransmissions after a cut reach the other side from here on.
    open_at: Instant,
    delay_us: (u64, u64),
}

struct Host {
    process: Option<Process>,
    routes: Option<Routes>,
    is_powered: bool,
}

struct State {
    links: BTreeMap<(usize, usize), Link>,
    hosts: Vec<Host>,
    delay_us: (u64, u64),
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Net {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    dice: Dice,
}

/// URL of a host.
pub(crate) fn url(host: usize) -> String {
    format!("http://10.0.0.{host}:1")
}

impl Net {
    pub(crate) fn new(hosts: usize, delay_us: (u64, u64), dice: Dice) -> Self {
        let host = |_| Host { process: None, routes: None, is_powered: true };
        let hosts = (0..hosts).map(host).collect();
        let state = State { links: BTreeMap::new(), hosts, delay_us };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()), dice }
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.state.lock());
        self.changed.send_replace(());
        result
    }

    fn with_link<T>(&self, from: usize, to: usize, act: impl FnOnce(&mut Link) -> T) -> T {
        self.change(|state| {
            let delay_us = state.delay_us;
            let new = || Link { is_cut: false, open_at: Instant::now(), delay_us };
            act(state.links.entry((from, to)).or_insert_with(new))
        })
    }

    /// Cuts one direction of a link.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.with_link(from, to, |link| link.is_cut = true);
    }

    /// Mends one direction of a link.
    pub(crate) fn mend(&self, from: usize, to: usize) {
        let retransmit = self.dice.millis(0, RETRANSMIT_MS);
        self.with_link(from, to, |link| {
            if std::mem::replace(&mut link.is_cut, false) {
                link.open_at = Instant::now() + retransmit;
            }
        });
    }

    /// Sets the delay of one direction, in microseconds.
    pub(crate) fn set_delay(&self, from: usize, to: usize, delay_us: (u64, u64)) {
        self.with_link(from, to, |link| link.delay_us = delay_us);
    }

    /// Mends everything.
    pub(crate) fn mend_all(&self) {
        let delay_us = self.state.lock().delay_us;
        let links: Vec<_> = self.state.lock().links.keys().copied().collect();
        for (from, to) in links {
            self.mend(from, to);
            self.set_delay(from, to, delay_us);
        }
    }

    /// A process begins on a host.
    pub(crate) fn up(&self, host: usize, process: &Process) {
        self.change(|state| {
            let host = &mut state.hosts[host];
            (host.process, host.routes, host.is_powered) = (Some(process.clone()), None, true);
        });
    }

    /// It listens.
    pub(crate) fn listen(&self, host: usize, routes: Routes) {
        self.change(|state| state.hosts[host].routes = Some(routes.prepare()));
    }

    /// The process of a host has ended, or the power of the host.
    pub(crate) fn down(&self, host: usize, is_powered: bool) {
        self.change(|state| {
            let host = &mut state.hosts[host];
            (host.process, host.routes, host.is_powered) = (None, None, is_powered);
        });
    }

    /// A process was paused or resumed.
    pub(crate) fn note(&self) {
        self.changed.send_replace(());
    }

    fn link(&self, from: usize, to: usize) -> Link {
        let state = self.state.lock();
        let new = || Link { is_cut: false, open_at: Instant::now(), delay_us: state.delay_us };
        state.links.get(&(from, to)).cloned().unwrap_or_else(new)
    }

    /// When a message sent now arrives, if the link holds.
    fn arrival(&self, from: usize, to: usize) -> Instant {
        let (low, high) = self.link(from, to).delay_us;
        Instant::now() + Duration::from_micros(self.dice.between(low, high))
    }

    /// Resolves when what should arrive at `arrival` has done so.
    async fn arrive(&self, from: usize, to: usize, arrival: Instant) {
        sleep_until(arrival).await;
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let link = self.link(from, to);
            if !link.is_cut {
                return sleep_until(link.open_at).await;
            }
            let _ = changed.changed().await;
        }
    }

    async fn travel(&self, from: usize, to: usize) {
        let arrival = self.arrival(from, to);
        self.arrive(from, to, arrival).await;
    }

    /// The dialer of a host.
    pub(crate) fn dialer(&self, from: usize) -> Dialer {
        Dialer { net: self.clone(), from }
    }
}

/// Reaches others from one host.
pub(crate) struct Dialer {
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

/// What a carrier stands for: at most one connection at a time.
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
        self.net.travel(self.from, self.to).await;
        let mut changed = self.net.changed.subscribe();
        let found = loop {
            changed.borrow_and_update();
            let (process, routes, is_powered) = {
                let state = self.net.state.lock();
                let host = &state.hosts[self.to];
                (host.process.clone(), host.routes.clone(), host.is_powered)
            };
            if is_powered {
                break process.zip(routes);
            }
            let _ = changed.changed().await;
        };
        self.net.travel(self.to, self.from).await;
        let (process, routes) = found
            .ok_or_else(|| Broken::Refused(io::Error::from(io::ErrorKind::ConnectionRefused)))?;
        let (caller_end, called_end) = (CancellationToken::new(), CancellationToken::new());
        Ok(Connection { process, routes, caller_end, called_end })
    }

    /// Whether what is sent over the connection comes back at the moment.
    fn is_well(&self, connection: &Connection) -> bool {
        let (there, back) = (self.net.link(self.from, self.to), self.net.link(self.to, self.from));
        let process = &connection.process;
        !there.is_cut && !back.is_cut && !process.is_paused() && !process.is_killed()
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
            let is_reset = connection.process.is_killed()
                && self.net.state.lock().hosts[self.to].is_powered
                && !self.net.link(self.to, self.from).is_cut;
            if is_reset {
                // The operating system closes what a process leaves open.
                self.net.travel(self.to, self.from).await;
                break;
            }
            let gives_up = sleep(self.patience * 2);
            let well_again = async {
                while !self.is_well(&connection) {
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
        let (there, arriving) = self.stream(self.from, self.to, connection.called_end.clone());
        let caller = Process::current();
        own(caller.as_ref(), pump(body, there));
        let (sender, answer) = oneshot::channel();
        let (line, mut routes) = (Arc::clone(self), connection.routes.clone());
        let end = connection.called_end.clone();
        let arrival = self.net.arrival(self.from, self.to);
        let work = async move {
            line.net.arrive(line.from, line.to, arrival).await;
            let request = Request::from_parts(head, arriving);
            let Ok(response) = routes.call(request).await;
            let (head, body) = response.into_parts();
            let (back, arriving) = line.stream(line.to, line.from, CancellationToken::new());
            let arrival = line.net.arrival(line.to, line.from);
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
    fn stream(&self, from: usize, to: usize, end: CancellationToken) -> (Sending, Body) {
        let (sender, receiver) = mpsc::channel::<(Instant, Message)>(64);
        let sending = Sending { net: self.net.clone(), from, to, sender };
        let net = self.net.clone();
        let frames = futures::stream::unfold((receiver, net, end), move |(mut queue, net, end)| {
            async move {
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
            }
        });
        (sending, Body::new(StreamBody::new(frames)))
    }
}

fn reset() -> tonic::Status {
    tonic::Status::unavailable("the connection broke")
}

/// A part of a body; none: its end.
type Message = Option<Result<Frame<Bytes>, tonic::Status>>;

/// The sending end of a body on its way.
struct Sending {
    net: Net,
    from: usize,
    to: usize,
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
        let arrival = to.net.arrival(to.from, to.to);
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
pub(crate) fn unowned(work: impl Future<Output = ()> + Send + 'static) {
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
