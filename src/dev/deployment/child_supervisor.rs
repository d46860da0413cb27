//! Supervises one child: starts the child again whenever it ends. A child that lived for 10 s is
//! restarted at once, a child that ended sooner after a growing pause.
//!
//! Invariant: a supervisor is the only owner of its child, so a signal reaches this child or no
//! process.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use pghc_runtime::telemetry::describe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::process_table::{Change, Member, ProcessTable};
use super::program::Body;

/// A child that lived this long is started again at once.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// Pause after the first short life; doubled with each one that follows.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A command for the supervisor of one child.
#[derive(Debug)]
pub(super) enum Command {
    /// Send a signal; returns the process id it went to, `None` when nothing runs.
    Signal(Signal, oneshot::Sender<Option<u32>>),
    /// Whether to start the child again when it ends.
    Supervise(bool, oneshot::Sender<()>),
    /// End it for good.
    Stop(oneshot::Sender<()>),
}

/// How long to wait before the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backoff {
    short_lives: u32,
    started: Instant,
    due: Instant,
}

impl Backoff {
    pub(super) fn new(now: Instant) -> Self {
        Self { short_lives: 0, started: now, due: now }
    }

    fn started(&mut self, now: Instant) {
        self.started = now;
    }

    /// Notes an end and the time of the next start. A child killed from outside did not fail: its
    /// restart always follows after the shortest pause.
    fn ended(&mut self, now: Instant, killed: bool) {
        if now.duration_since(self.started) >= LONG_LIFE {
            *self = Self::new(now);
        } else if killed {
            *self = Self { due: now + PAUSE_MIN, ..Self::new(now) };
        } else {
            let pause = PAUSE_MIN.saturating_mul(1 << self.short_lives.min(6)).min(PAUSE_MAX);
            self.short_lives = self.short_lives.saturating_add(1);
            self.due = now + pause;
        }
    }
}

/// Runs and restarts `body` until a stop command arrives or the command channel closes.
pub(super) async fn supervise(
    mut body: Body,
    member: Member,
    mut commands: mpsc::Receiver<Command>,
    table: Arc<ProcessTable>,
    abort: CancellationToken,
) {
    let mut backoff = Backoff::new(Instant::now());
    let mut supervised = true;
    loop {
        let runs = body.pid().is_some();
        tokio::select! {
            status = body.exited(), if runs => {
                let by = status.and_then(|status| status.signal());
                backoff.ended(Instant::now(), by == Some(Signal::SIGKILL as i32));
                table.report(&member, Change::Ended { status, short_lives: backoff.short_lives });
            }
            () = tokio::time::sleep_until(backoff.due), if !runs && supervised => {
                backoff.started(Instant::now());
                let change = match body.launch().await {
                    Ok(()) => Change::Started(body.pid().unwrap_or_default()),
                    Err(error) => {
                        backoff.ended(Instant::now(), false);
                        Change::Failed(describe(&error))
                    }
                };
                table.report(&member, change);
            }
            command = commands.recv() => match command {
                None => return,
                // The sender may have given up meanwhile; a lost reply is no error.
                Some(Command::Signal(by, answer)) => {
                    let pid = body.pid();
                    body.signal(by);
                    let _ = answer.send(pid);
                }
                Some(Command::Supervise(wanted, answer)) => {
                    supervised = wanted;
                    let _ = answer.send(());
                }
                Some(Command::Stop(answer)) => {
                    end(&mut body, &member, &abort).await;
                    let _ = answer.send(());
                    return;
                }
            }
        }
    }
}

async fn end(body: &mut Body, member: &Member, abort: &CancellationToken) {
    let stopped = tokio::select! {
        stopped = body.stop() => stopped,
        () = abort.cancelled() => body.kill().await,
    };
    if let Err(error) = stopped {
        tracing::error!(%member, %error, "child reap failed");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Backoff, LONG_LIFE, PAUSE_MAX, PAUSE_MIN};

    #[test]
    fn backoff_doubles_to_bound_until_long_life() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(now);
        for pause_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            backoff.started(now);
            backoff.ended(now, false);
            assert_eq!(backoff.due - now, Duration::from_millis(pause_ms));
            now = backoff.due;
        }
        assert!(backoff.due - now <= PAUSE_MAX);
        backoff.started(now);
        backoff.ended(now + LONG_LIFE, false);
        assert_eq!(backoff, Backoff::new(now + LONG_LIFE));
    }

    #[test]
    fn backoff_stays_shortest_for_killed_child() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(now);
        for _ in 0..10 {
            backoff.started(now);
            backoff.ended(now, true);
            assert_eq!((backoff.due - now, backoff.short_lives), (PAUSE_MIN, 0));
            now = backoff.due;
        }
    }
}
