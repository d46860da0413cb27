//! One supervised process of the cluster: coordinator, API node or postmaster.
//!
//! The process is restarted whenever it ends, unless a fault holds it down. An end that no fault
//! excuses is a finding. The parent reaps it at once, because an unreaped postmaster would keep its
//! lock.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use parking_lot::Mutex as Lock;
use pghc_dev::process::Process;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::ground::Build;

/// Pause before a process that ended is started again.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time a process may take to end when asked.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Longest time that a fault waits for a process to run.
const RUNNING_MAX: Duration = Duration::from_secs(20);
/// How long after a fault ended an end is still its doing.
const EXCUSED: Duration = Duration::from_secs(15);

/// Builds the command line of each life.
pub type Make = Box<dyn Fn(Build) -> anyhow::Result<Command> + Send + Sync>;

/// A process.
pub struct Unit {
    /// Its name: `eu/coordinator`.
    pub name: String,
    /// Its log.
    pub log: PathBuf,
    make: Make,
    build: Lock<Build>,
    body: Mutex<Body>,
    /// Faults that touch it now.
    excuses: AtomicU32,
    excused_until: Lock<Option<Instant>>,
}

#[derive(Default)]
struct Body {
    process: Process,
    held: bool,
    lives: u32,
    ended: Option<Instant>,
}

impl Unit {
    /// A process that does not run yet.
    pub fn new(name: String, log: PathBuf, make: Make) -> Self {
        Self {
            name,
            log,
            make,
            build: Lock::default(),
            body: Mutex::default(),
            excuses: AtomicU32::new(0),
            excused_until: Lock::default(),
        }
    }

    /// Starts it, if it does not run.
    ///
    /// # Errors
    /// When the operating system does not start it.
    pub async fn start(&self) -> anyhow::Result<()> {
        let mut body = self.body.lock().await;
        body.held = false;
        self.launch(&mut body)
    }

    fn launch(&self, body: &mut Body) -> anyhow::Result<()> {
        if body.process.pid().is_some() {
            return Ok(());
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.make)(self.build())?;
        command.stdout(log.try_clone()?).stderr(log);
        body.process.spawn(&mut command).with_context(|| format!("start {}", self.name))?;
        body.lives += 1;
        body.ended = None;
        Ok(())
    }

    /// The build that it runs from its next start on.
    pub fn build(&self) -> Build {
        *self.build.lock()
    }

    /// Sets the build that it runs from its next start on.
    pub fn set_build(&self, build: Build) {
        *self.build.lock() = build;
    }

    /// Starts the process for one life that must end without a signal, and holds it down then.
    /// Returns its exit status.
    ///
    /// # Errors
    /// When it runs already, cannot be started, or is still there after `longest`; it is killed then.
    pub async fn one_life(&self, longest: Duration) -> anyhow::Result<ExitStatus> {
        let mut body = self.body.lock().await;
        body.held = true;
        ensure!(body.process.pid().is_none(), "{} runs", self.name);
        self.launch(&mut body)?;
        let ended = tokio::time::timeout(longest, body.process.exited()).await;
        body.ended = Some(Instant::now());
        let Ok(status) = ended else {
            body.process.kill().await?;
            bail!("{} did not end by itself within {longest:?}", self.name)
        };
        status?.context("it ran")
    }

    /// Takes a process that runs already, in the place of the one that was ended before.
    ///
    /// # Errors
    /// When one runs: the new one is killed.
    pub async fn adopt(&self, process: Process) -> anyhow::Result<()> {
        let mut body = self.body.lock().await;
        ensure!(body.process.pid().is_none(), "{} runs", self.name);
        *body = Body { process, held: false, lives: body.lives + 1, ended: None };
        Ok(())
    }

    /// Checks whether the process has ended, and restarts it after a pause. Returns a finding about
    /// its end, if any.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn tend(&self) -> anyhow::Result<Option<String>> {
        // A fault that works on it holds the lock for a while; the others go on.
        let Ok(mut body) = self.body.try_lock() else { return Ok(None) };
        let mut finding = None;
        if let Some(status) = body.process.try_exited()? {
            body.ended = Some(Instant::now());
            if !body.held && !self.is_excused() {
                finding = Some(format!("{} ended by itself: {status}", self.name));
            }
        }
        let may_start = body.ended.is_none_or(|ended| ended.elapsed() >= PAUSE);
        if !body.held && body.lives > 0 && body.process.pid().is_none() && may_start {
            self.launch(&mut body)?;
        }
        Ok(finding)
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pid(&self) -> anyhow::Result<u32> {
        self.running().await?.process.pid().with_context(|| format!("{} does not run", self.name))
    }

    /// Process id, if the process runs and no fault works on it.
    pub fn peek(&self) -> Option<u32> {
        self.body.try_lock().ok().and_then(|body| body.process.pid())
    }

    /// Signals it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn signal(&self, by: Signal) -> anyhow::Result<u32> {
        let body = self.running().await?;
        let pid = body.process.pid().with_context(|| format!("{} does not run", self.name))?;
        body.process.signal(by);
        Ok(pid)
    }

    /// Kills it with SIGKILL and holds it down until [`Unit::start`]. Answers the evidence.
    ///
    /// # Errors
    /// When it did not run.
    pub async fn kill(&self) -> anyhow::Result<String> {
        self.end(Signal::SIGKILL).await
    }

    /// Ends it by `by`, waits for its end, and holds it down. Answers the evidence.
    ///
    /// # Errors
    /// When it did not run or does not end.
    pub async fn end(&self, by: Signal) -> anyhow::Result<String> {
        let mut body = self.running().await?;
        body.held = true;
        let pid = body.process.pid().with_context(|| format!("{} does not run", self.name))?;
        body.process.signal(by);
        body.process.signal(Signal::SIGCONT);
        let ended = tokio::time::timeout(STOP_MAX, body.process.exited()).await;
        body.ended = Some(Instant::now());
        let Ok(status) = ended else {
            // The run fails, and continues to the end of its epoch.
            body.process.kill().await?;
            body.held = false;
            bail!("{} does not end by {by} within {STOP_MAX:?}", self.name)
        };
        let status = status?.context("it ran")?;
        Ok(format!("{} (process {pid}): {status}", self.name))
    }

    /// Waits until it runs: an earlier fault may have ended it just now.
    async fn running(&self) -> anyhow::Result<MutexGuard<'_, Body>> {
        let deadline = Instant::now() + RUNNING_MAX;
        loop {
            let body = self.body.lock().await;
            if body.process.pid().is_some() {
                return Ok(body);
            }
            drop(body);
            ensure!(Instant::now() < deadline, "{} did not run for {RUNNING_MAX:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it if it runs, and holds it down.
    pub async fn put_down(&self) {
        let mut body = self.body.lock().await;
        body.held = true;
        // A failed kill has no one left to report to.
        let _ = body.process.kill().await;
    }

    /// From now on its end is a fault's doing.
    pub fn excuse(&self) {
        self.excuses.fetch_add(1, Ordering::SeqCst);
    }

    /// The fault is over; for some seconds its end may still be its doing.
    pub fn no_excuse(&self) {
        *self.excused_until.lock() = Some(Instant::now() + EXCUSED);
        self.excuses.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_excused(&self) -> bool {
        self.excuses.load(Ordering::SeqCst) > 0
            || self.excused_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Bytes of its log, as a start for [`Self::log_since`].
    pub fn log_bytes(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Log output behind `from` bytes.
    pub fn log_since(&self, from: u64) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }
}
