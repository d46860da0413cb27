//! The server: accepts connections, holds every client to its limits, and drains on shutdown.
//!
//! Built on hyper itself, because a server must close what dribbles: a connection is closed when a
//! head, an answer or the next request is overdue, whatever else it does.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::api::{Api, Face};
use super::connection::{Answer, Clock, Watched};
use super::limits::Cors;
use crate::task::Tasks;
use crate::telemetry::IdGauge;

/// Pause after the operating system refused a connection, usually for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Furthest the timer of a connection is set ahead while nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// Serves `api` on `listener` until its shutdown signal; then takes no more connections, lets the
/// requests under way finish for at most `limits.drain`, and returns.
///
/// Closing happens without an answer where HTTP has none to give: a head that takes too long, a
/// client that takes no answer, too many connections. A head that is too large or not HTTP is
/// answered 431 or 400 without a body.
pub async fn serve(listener: TcpListener, api: Arc<Api>, cors: &Cors) {
    let face = Face::new(Arc::clone(&api), cors);
    let shutdown = api.shutdown.clone();
    // Not the tasks of the process: these must outlive the signal that ends those.
    let tasks = Tasks::default();
    let open = Open::new(api.metrics.http.connections_open.clone());
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if open.count() < api.limits.connections => {
                let entry = Arc::clone(&open).enter();
                let face = face.clone();
                tasks.spawn("http connection", async move {
                    serve_connection(stream, face).await;
                    drop(entry);
                });
            }
            Ok(_) => {
                api.metrics.http.connections_refused.inc();
                tracing::debug!(limit = api.limits.connections, "refused a connection");
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(api.limits.drain, open.none()).await.is_err() {
        tracing::warn!(connections = open.count(), "closed connections whose requests did not end");
    }
    tasks.shut_down().await;
}

async fn serve_connection(stream: TcpStream, face: Face) {
    // Fails only for a connection that is gone already.
    let _ = stream.set_nodelay(true);
    let limits = &face.api.limits;
    let clock = Clock::new(limits);
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&clock)));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let begun = clock.begin();
        let face = &face;
        async move {
            let answer = face.answer(request.map(Body::new)).await;
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, begun)))
        }
    });
    let mut http = http1::Builder::new();
    http.max_header_size(limits.head_bytes);
    let connection = http.serve_connection(stream, service);
    if let Some(Err(error)) = run(pin!(connection), &clock, &face.api.shutdown).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Runs a connection to its end; `None` when it was closed as overdue.
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

/// Connections open now.
struct Open {
    count: AtomicUsize,
    gauge: IdGauge,
    changed: Notify,
}

impl Open {
    fn new(gauge: IdGauge) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), gauge, changed: Notify::new() })
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn enter(self: Arc<Self>) -> Entry {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
        Entry(self)
    }

    /// Resolves when no connection is open.
    async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// A connection's place among the open ones.
struct Entry(Arc<Open>);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
        self.0.changed.notify_one();
    }
}
