//! `pghc dev --detach`: starts a supervisor, shows what it says, and returns when its deployment is ready.
//!
//! Invariant: it answers 0 only when the deployment takes writes. Otherwise it says why, and nothing runs, unless
//! zones have halted: their nodes must run to be healed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use pghc_dev::deployment::{self, Error, Supervisor};
use pghc_dev::process::signal as send;
use pghc_runtime::private;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::view;

/// Longest wait for a supervisor, which gives a deployment up earlier; it is killed then.
const READY_MAX: Duration = Duration::from_secs(420);
/// Longest wait until an interrupted supervisor has stopped what it started.
const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Bytes of the log that are shown at once, at most.
const SHOWN_BYTES: u64 = 64 << 10;

/// Starts the supervisor of `data` and waits until its deployment is ready.
pub(super) async fn run(data: &Path) -> ExitCode {
    match start(data).await {
        Ok(()) => ExitCode::SUCCESS,
        Err((why, code)) => {
            view::complain(&format!("pghc: {why}"));
            ExitCode::from(code)
        }
    }
}

type Failure = (String, u8);

fn io_failure(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| (format!("failed to {act} {}: {error}; nothing was started", path.display()), 2)
}

async fn start(data: &Path) -> Result<(), Failure> {
    let refused = |error: Error| (pghc_runtime::program::with_causes(&error), 2);
    deployment::prepare(data).await.map_err(refused)?;
    let log = data.join("log/supervisor.log");
    let output = private::append(&log).map_err(io_failure("open", &log))?;
    let again = output.try_clone().map_err(io_failure("open", &log))?;
    let told = output.metadata().map_err(io_failure("read", &log))?.len();
    let own = std::env::current_exe().map_err(io_failure("find", Path::new("this program")))?;
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        return Err(("the system takes no signal handlers; nothing was started".to_owned(), 2));
    };
    let mut command = Command::new(&own);
    command.args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"));
    command.arg("--supervise").stdin(Stdio::null()).stdout(output).stderr(again);
    let child = command.spawn().map_err(io_failure("start", &own))?;
    let mut waiting = Waiting { child, data: data.to_owned(), log, told };
    tokio::select! {
        ready = waiting.ready() => ready,
        _ = interrupt.recv() => waiting.give_up("interrupted").await,
        _ = terminate.recv() => waiting.give_up("terminated").await,
    }
}

/// A supervisor whose deployment is not ready yet.
struct Waiting {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    /// Bytes of its log that were shown or are older.
    told: u64,
}

impl Waiting {
    async fn ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            // Asked first: what it said before it ended is in the log then.
            let ended = self.child.try_wait().map_err(io_failure("wait for", &self.log))?;
            let known = self.supervisor();
            self.tell();
            if let Some(status) = ended {
                return Err(self.ended(status));
            }
            match known {
                Some(Supervisor { ready: true, .. }) => return Ok(()),
                Some(Supervisor { halted: Some(why), .. }) => {
                    return Err((self.runs_halted(&why), 1));
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                return self.give_up("not ready in time").await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// State written by the supervisor; `None` before its first write.
    fn supervisor(&self) -> Option<Supervisor> {
        let known = Supervisor::read(&self.data).ok().flatten();
        // A file of another life of the machine may name the same number.
        known.filter(|it| self.child.id() == Some(it.pid) && it.runs())
    }

    fn runs_halted(&self, why: &str) -> String {
        let data = self.data.display();
        format!(
            "the deployment runs, and not every zone takes writes: {why}. Heal the zone (pghc zone audit, pghc \
             zone reseed), or stop the deployment: pghc dev --stop {data}"
        )
    }

    /// Prints what is new in the log.
    fn tell(&mut self) {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.told))?;
            let mut bytes = Vec::new();
            file.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // A log that cannot be read is named when the supervisor fails.
        let bytes = read().unwrap_or_default();
        self.told += bytes.len() as u64;
        pghc_runtime::output::put(&String::from_utf8_lossy(&bytes));
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0);
        let log = self.log.display();
        let why =
            format!("the deployment is not up: its supervisor ended ({status}); its log is {log}");
        (why, code.unwrap_or(1))
    }

    /// Has the supervisor stop what it started.
    async fn give_up(&mut self, why: &str) -> Result<(), Failure> {
        if let Some(pid) = self.child.id() {
            send(pid, Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_MAX, self.child.wait()).await.is_err() {
            // Its children end with it.
            let _ = self.child.kill().await;
        }
        self.tell();
        Err((format!("{why}: the deployment was stopped; the log is {}", self.log.display()), 1))
    }
}
