//! Supervised tasks: every background task has a name, ends with its owner, and a panic in one ends
//! the process, because a half-alive node is worse than a dead one.

pub mod fair_watch;
pub mod process;

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sleeps until `time`; without a time, forever.
pub async fn until(time: Option<Instant>) {
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
        drop(spawn(self.tracker.track_future(async move {
            let work = AssertUnwindSafe(work).catch_unwind();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                ended = work => if ended.is_err() {
                    // The abort comes first in a program of ours (`end_on_panic`); this is for tests.
                    tracing::error!(task = name, "task panicked; the process ends");
                    std::process::abort();
                }
            }
        })));
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

/// Exit status that a shell shows of a process that aborted: 128 and SIGABRT.
pub const ABORTED: u8 = 134;

/// Makes a panic of any thread or task end this process at once, with the reason as the last event
/// of its log: a half-alive node is worse than a dead one. For programs, not for tests.
pub fn end_on_panic() {
    static ENDS: AtomicBool = AtomicBool::new(false);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if ENDS.swap(true, Ordering::SeqCst) {
            // Another thread panicked before and is about to abort.
            loop {
                std::thread::park();
            }
        }
        if !crate::telemetry::logs_json() {
            print(panic);
        }
        let error = panic.to_string();
        tracing::error!(exit_code = ABORTED, error, "process ended");
        std::process::abort();
    }));
}

/// Spawns on the runtime; what a simulated process spawns belongs to it.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    if let Some(process) = process::Process::current() {
        return process.spawn(work);
    }
    tokio::spawn(work)
}

/// Runs blocking code on a blocking thread. A simulated process has one thread only, and runs the
/// code at once.
///
/// # Errors
/// If `work` panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if process::Process::current().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::{Tasks, end_on_panic, spawn};

    /// Which kind of task panics in the child that the test below starts.
    const KIND: &str = "PGHC_TEST_PANIC";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_of_any_task_ends_the_process() {
        if let Ok(kind) = std::env::var(KIND) {
            return panic_as(&kind).await;
        }
        for kind in ["task", "supervised", "blocking", "thread", "main"] {
            let mut child = Command::new(std::env::current_exe().expect("this test"));
            child.args(["--exact", "task::tests::a_panic_of_any_task_ends_the_process"]);
            let ended = child.arg("--nocapture").env(KIND, kind).output().expect("it starts");
            let log = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.signal(), Some(nix::libc::SIGABRT), "{kind}: {log}");
            let last = log.lines().next_back().expect("a log");
            let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
            assert_eq!(last["message"], "process ended", "{kind}");
            assert_eq!(last["exit_code"], 134);
            let why = last["error"].as_str().expect("a reason");
            assert!(why.contains("on purpose") && why.contains("task.rs"), "{why}");
        }
    }

    async fn panic_as(kind: &str) {
        crate::telemetry::set_up_logging("info", "json").expect("a process of its own");
        end_on_panic();
        match kind {
            "task" => drop(spawn(async { panic!("on purpose") })),
            "supervised" => Tasks::default().spawn("panics", async { panic!("on purpose") }),
            "blocking" => drop(super::blocking(|| panic!("on purpose")).await),
            "thread" => drop(std::thread::spawn(|| panic!("on purpose"))),
            _ => panic!("on purpose"),
        }
        std::future::pending::<()>().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_ends_a_process_without_the_hook() {
        if std::env::var(KIND).is_ok() {
            Tasks::default().spawn("panics", async { panic!("on purpose") });
            return std::future::pending().await;
        }
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", "task::tests::a_panic_ends_a_process_without_the_hook"]);
        let ended = child.env(KIND, "1").output().expect("it starts");
        assert_eq!(ended.status.signal(), Some(nix::libc::SIGABRT));
    }
}
