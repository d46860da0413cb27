//! Processes: our own children, which are always reaped, and others by their numbers.
//!
//! A process id alone proves nothing, since numbers are used again; compare the command line before
//! signalling a process that is not our own child.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

/// A place for one child process. Dropping it kills the child with SIGKILL.
#[derive(Debug, Default)]
pub struct Process {
    // Dropped before the lifeline, so that a dropped child dies by the signal, not by its own way.
    child: Option<Child>,
    lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts `command` with a lifeline: a pipe as its standard input that reaches end of file when
    /// this process ends for any reason. The child gets a process group of its own, so Ctrl-C in a
    /// terminal does not reach it.
    ///
    /// # Errors
    /// When the operating system does not start it.
    ///
    /// # Panics
    /// If a child runs here already: it would be lost.
    pub fn spawn(&mut self, command: &mut Command) -> io::Result<()> {
        assert!(self.child.is_none(), "a second child would be started in the place of one");
        let command = command.stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        self.lifeline = child.stdin.take();
        self.child = Some(child);
        Ok(())
    }

    /// Process id until the child is reaped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Sends `signal` to the child, if there is one.
    pub fn signal(&self, by: Signal) {
        if let Some(pid) = self.pid() {
            signal(pid, by);
        }
    }

    /// Waits until the child has ended and reaps it; `None` at once when there is none. Cancel safe.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub async fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.wait().await?;
        *self = Self::default();
        Ok(Some(status))
    }

    /// Reaps the child if it has ended; `None` while it runs and when there is none.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn try_exited(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            *self = Self::default();
        }
        Ok(status)
    }

    /// Asks the child to end by `by`, kills it after `patience`, and reaps it. Cancel safe.
    ///
    /// # Errors
    /// When the operating system does not tell what became of it.
    pub async fn stop(&mut self, by: Signal, patience: Duration) -> io::Result<()> {
        self.signal(by);
        // A child stopped by SIGSTOP would take no notice.
        self.signal(Signal::SIGCONT);
        match tokio::time::timeout(patience, self.exited()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.kill().await,
        }
    }

    /// Kills the child with SIGKILL and reaps it.
    ///
    /// # Errors
    /// When the operating system does not tell what became of it.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGKILL);
        self.exited().await.map(drop)
    }
}

/// Sends `by` to `pid`. A process that has ended is no error.
pub fn signal(pid: u32, by: Signal) {
    // 0 and negative numbers would address whole groups, 1 is init.
    let Ok(pid) = i32::try_from(pid) else { return };
    if pid > 1
        && let Err(error) = nix::sys::signal::kill(Pid::from_raw(pid), by)
        && error != nix::errno::Errno::ESRCH
    {
        tracing::warn!(pid, signal = %by, %error, "process signal failed");
    }
}

/// Whether a process has this number, be it a zombie or of another user.
#[must_use]
pub fn exists(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    let asked = nix::sys::signal::kill(Pid::from_raw(pid), None);
    pid > 0 && asked != Err(nix::errno::Errno::ESRCH)
}

/// Ids of all processes of this machine that can be seen; none where there is no `/proc`.
#[must_use]
pub fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Identity of a running process that survives reuse of its number: start of the machine and of the
/// process. `None` for a zombie, an ended process, or without permission.
#[must_use]
pub fn identity(pid: u32) -> Option<String> {
    if !fs::exists("/proc/self/stat").unwrap_or(false) {
        return started_by_ps(pid);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may contain parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let ticks = fields.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    (!matches!(state, "Z" | "X")).then(|| format!("{} {ticks}", boot.trim()))
}

/// Where there is no `/proc` (macOS).
fn started_by_ps(pid: u32) -> Option<String> {
    let mut ps = std::process::Command::new("ps");
    let output = ps.args(["-o", "stat=,lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (state, started) = text.trim().split_once(char::is_whitespace)?;
    (!state.starts_with('Z')).then(|| started.trim().to_owned())
}

/// Arguments of a running process, the program first; `None` for a zombie or an ended process.
#[must_use]
pub fn command_line(pid: u32) -> Option<Vec<String>> {
    if !fs::exists("/proc/self/cmdline").unwrap_or(false) {
        return command_line_by_ps(pid);
    }
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let arguments: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    // A zombie has none.
    (!arguments.is_empty()).then_some(arguments)
}

/// Where there is no `/proc` (macOS). Arguments with spaces come apart here.
fn command_line_by_ps(pid: u32) -> Option<Vec<String>> {
    let mut ps = std::process::Command::new("ps");
    let output = ps.args(["-ww", "-o", "stat=,command=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let state = words.next()?;
    (!state.starts_with('Z')).then(|| words.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::Signal;
    use tokio::process::Command;

    use super::{Process, all, command_line, exists, identity};

    #[test]
    fn a_process_has_an_identity_until_it_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id();
        let born = identity(pid).expect("it runs");
        assert_eq!(identity(pid).as_ref(), Some(&born));
        assert!(exists(pid) && all().contains(&pid));
        child.kill().expect("signalled");
        while identity(pid).is_some() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(exists(pid), "a zombie has its number still");
        child.wait().expect("reaped");
        assert!(identity(std::process::id()).is_some_and(|own| own != born));
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn child_ignoring_sigterm_is_killed() {
        let mut process = Process::default();
        process.spawn(&mut shell("trap '' TERM; while :; do sleep 1; done")).expect("sh is there");
        let pid = process.pid().expect("it runs");
        process.stop(Signal::SIGTERM, Duration::from_millis(50)).await.expect("it is reaped");
        assert_eq!(process.pid(), None);
        assert_eq!(command_line(pid), None);
    }

    #[tokio::test]
    async fn a_stopped_child_hears_the_request_to_end() {
        let mut process = Process::default();
        process.spawn(&mut shell("read -r line")).expect("sh is there");
        process.signal(Signal::SIGSTOP);
        process.stop(Signal::SIGTERM, Duration::from_secs(10)).await.expect("it is reaped");
        assert_eq!(process.pid(), None);
    }
}
