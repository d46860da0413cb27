//! The lock file `postmaster.pid` of a data directory: who holds it, and freeing it.
//!
//! Only a process that is proved to be the postmaster of this directory is ever signalled; a number
//! in a file may by now be anybody's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::{Error, POLL};
use crate::dev::process::{command_line, signal};

/// Stops a server that a killed owner left running on `data_dir`, and removes a lock file whose
/// process id now belongs to somebody else.
///
/// # Errors
/// [`Error::StillRunning`] when it does not stop within `timeout` and another one for the kill.
pub(super) async fn clear(data_dir: &Path, timeout: Duration) -> Result<(), Error> {
    let file = data_dir.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return Ok(());
    };
    let Some(arguments) = command_line(pid) else {
        // Dead: PostgreSQL sees that by itself, and by the file that no shared memory is in use.
        return Ok(());
    };
    if !serves(&arguments, data_dir) {
        return fs::remove_file(&file).map_err(Error::io("remove a stale postmaster.pid"));
    }
    tracing::info!(pid, "stopping a server left by an earlier run");
    for by in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        signal(pid, by);
        signal(pid, Signal::SIGCONT);
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if command_line(pid).is_none_or(|arguments| !serves(&arguments, data_dir)) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(Error::StillRunning { pid, data_dir: data_dir.to_owned() })
}

/// Whether a command line is `…/postgres … -D DATA_DIR …`.
fn serves(arguments: &[String], data_dir: &Path) -> bool {
    let program = arguments.first().and_then(|first| Path::new(first).file_name());
    program.is_some_and(|name| name == "postgres" || name == "postmaster")
        && arguments.iter().any(|argument| Path::new(argument) == data_dir)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::serves;

    #[test]
    fn only_a_postmaster_of_this_directory_is_taken_for_one() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let check = |text: &str| serves(&line(text), Path::new("/d/pg"));
        assert!(check("/usr/lib/postgresql/15/bin/postgres -D /d/pg"));
        assert!(!check("/usr/lib/postgresql/15/bin/postgres -D /d/pg2"));
        assert!(!check("/usr/bin/tail -f /d/pg"));
        assert!(!check(""));
    }
}
