//! Supervised tasks: every background task has a name, ends with its owner, and a panic in one ends
//! the process, because a half-alive node is worse than a dead one.

pub mod process;
pub mod watch;

use std::future::Future;
use std::io;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sleeps until `time`; for ever when there is none.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The tasks of one process and the signal that ends them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Tasks {
    /// Starts `work` as a task named `name`; it is dropped at its next await point on shutdown.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        let task = spawn(self.tracker.track_future(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        }));
        spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(task = name, "task panicked; the process ends");
                std::process::abort();
            }
        });
    }

    /// Resolves when shutdown begins.
    pub async fn shutting_down(&self) {
        self.shutdown.cancelled().await;
    }

    /// The signal itself, for servers that drain.
    #[must_use]
    pub fn signal(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Tells every task to end and waits until all have.
    pub async fn shut_down(&self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Spawns on the runtime; what a simulated process spawns belongs to it.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    if let Some(process) = process::Process::current() {
        return process.spawn(work);
    }
    tokio::spawn(work)
}

/// Runs what blocks for long where it holds nobody up; in a simulated process, where no thread may
/// run beside the one that counts, at once.
///
/// # Errors
/// If `work` panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if process::Process::current().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
