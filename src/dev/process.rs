//! Processes by their numbers: what one is running, and signals.
//!
//! A process id alone proves nothing, since numbers are used again; compare the command line before
//! signalling a process that is not our own child.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Sends `signal` to `pid`. A process that is gone is no error: gone is what signals are for.
pub fn signal(pid: u32, signal: Signal) {
    // 0 and negative numbers would address whole groups, 1 is init.
    let Ok(pid) = i32::try_from(pid) else { return };
    if pid > 1
        && let Err(error) = nix::sys::signal::kill(Pid::from_raw(pid), signal)
        && error != nix::errno::Errno::ESRCH
    {
        tracing::warn!(pid, %signal, %error, "failed to signal a process");
    }
}

/// Arguments of a running process, the program first; `None` when it is gone or a zombie.
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
