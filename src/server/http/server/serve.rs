//! The server: accepts connections, holds every client to its limits, and drains on shutdown.
//!
//! Built on hyper itself, because a server must close what dribbles: a connection is closed when a
//! head, an answer or the next request is overdue, whatever else it does.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pghc_runtime::connections::Seats;
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::{IdGauge, Metrics};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Answer, Clock, Watched};
use super::limits::Limits;

/// Pause after the operating system refused a connection, usually for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Most bytes of one connection that are read ahead of what takes them. hyper's own default is 400 KiB.
const BUFFER_BYTES: usize = 32 << 10;

/// Furthest the timer of a connection is set ahead while nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// The request handler of a server.
pub(crate) trait Answering: Clone + Send + Sync + 'static {
    /// Answers one request, whatever happens.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response> + Send;
}

/// How a server treats its clients.
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) shutdown: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
}

/// As [`serve`](fn@super::serve), whatever answers.
pub(crate) async fn serve_by<A: Answering>(listener: TcpListener, answering: A, rules: Rules) {
    let server = Server {
        answering,
        seats: Seats::new(rules.limits.connections),
        // Not the tasks of the process: these must outlive the signal that ends those.
        tasks: Tasks::default(),
        rules: Arc::new(rules),
    };
    let Rules { limits, shutdown, .. } = server.rules.as_ref();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => server.take(stream).await,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Connections in the backlog would be reset with the listener.
    for _ in 0..limits.connections {
        let Some(Ok((stream, _))) = listener.accept().now_or_never() else { break };
        server.take(stream).await;
    }
    drop(listener);
    if timeout(limits.drain, server.seats.empty()).await.is_err() {
        let connections = server.seats.taken();
        tracing::warn!(connections, "closed connections whose requests did not end");
    }
    server.tasks.shut_down().await;
}

struct Server<A> {
    answering: A,
    rules: Arc<Rules>,
    seats: Arc<Seats<Clock>>,
    tasks: Tasks,
}

impl<A: Answering> Server<A> {
    /// Serves a connection, for which an idle one may have to go; closes it when all others are at work.
    async fn take(&self, stream: TcpStream) {
        let (limits, http) = (&self.rules.limits, &self.rules.metrics.http);
        let clock = Clock::new(limits);
        if self.seats.taken() >= limits.connections {
            http.connections_refused.inc();
            tracing::debug!(limit = limits.connections, "too many connections");
        }
        let Some(seat) = self.seats.admit(&clock).await else { return };
        let open = Open::new(http.connections_open.clone());
        let (answering, rules) = (self.answering.clone(), Arc::clone(&self.rules));
        self.tasks.spawn("http connection", async move {
            serve_connection(stream, &clock, &answering, &rules).await;
            drop((seat, open));
        });
    }
}

async fn serve_connection<A: Answering>(
    stream: TcpStream,
    clock: &Arc<Clock>,
    answering: &A,
    rules: &Rules,
) {
    // Fails only for a connection that is gone already.
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(clock)));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let begun = clock.begin();
        async move {
            let answer = answering.answer(request.map(Body::new)).await;
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, begun)))
        }
    });
    let mut http = http1::Builder::new();
    // A client may send all that it has, close its side, and then read.
    http.half_close(true);
    http.max_header_size(rules.limits.head_bytes).max_buf_size(BUFFER_BYTES);
    let connection = http.serve_connection(stream, service);
    if let Some(Err(error)) = run(pin!(connection), clock, &rules.shutdown).await {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Runs a connection to its end; `None` when it was closed as overdue, or for another one.
async fn run<C: Drain>(
    mut connection: Pin<&mut C>,
    clock: &Clock,
    shutdown: &CancellationToken,
) -> Option<C::Output> {
    let mut armed = clock.due().unwrap_or_else(|| Instant::now() + NOTHING_DUE);
    let mut timer = pin!(sleep_until(armed));
    let mut told = pin!(shutdown.cancelled());
    let mut is_told = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(end));
            }
            if clock.goes(cx) {
                return Poll::Ready(None);
            }
            if is_told || told.as_mut().poll(cx).is_pending() {
                break;
            }
            is_told = true;
            connection.as_mut().drain();
        }
        // The timer is touched only when it would fire too late; else it fires early and is set
        // again. So a request costs no timer.
        loop {
            let due = clock.due();
            if let Some(due) = due.filter(|due| *due < armed) {
                armed = due;
                timer.as_mut().reset(armed);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                return Poll::Ready(None);
            }
            armed = due.unwrap_or(now + NOTHING_DUE);
            timer.as_mut().reset(armed);
        }
    })
    .await
}

/// A connection that can be told to finish.
trait Drain: Future {
    fn drain(self: Pin<&mut Self>);
}

impl<S> Drain for http1::Connection<TokioIo<Watched<TcpStream>>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Counts an open connection.
struct Open(IdGauge);

impl Open {
    fn new(gauge: IdGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
