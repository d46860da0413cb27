//! The lock file `postmaster.pid` of a data directory: names its owner, and is removed when stale.
//!
//! Only a process that is proved to be the postmaster of this directory is ever signalled; a number
//! in a file may by now be anybody's.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::error::Error;
use super::options::POLL;
use crate::process::{command_line, exists, identity, signal};

/// Stops a server that a killed owner left running on `data_dir`. Removes a lock file whose process
/// is dying or whose process id was reused. Returns whether a server ran.
///
/// # Errors
/// [`Error::StillRunning`] when it does not stop within `timeout` and another one for the kill.
pub(super) async fn clear(data_dir: &Path, timeout: Duration) -> Result<bool, Error> {
    let file = data_dir.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&file) else { return Ok(false) };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return Ok(false);
    };
    let (born, dying) = (identity(pid), command_line(pid).is_none());
    let gone = || born.is_none() || identity(pid) != born;
    let serving = || command_line(pid).is_some_and(|arguments| serves(&arguments, data_dir));
    let end = || disown(&file, &text, pid).map_err(Error::io("change a stale postmaster.pid"));
    if !serving() {
        if dying {
            wait(gone, timeout).await;
        }
        return end().map(|()| false);
    }
    tracing::info!(pid, "server of an earlier run stopped");
    for by in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        signal(pid, by);
        signal(pid, Signal::SIGCONT);
        if wait(gone, timeout).await {
            return end().map(|()| true);
        }
    }
    Err(Error::StillRunning { pid, data_dir: data_dir.to_owned() })
}

/// Waits until it `holds`, `timeout` at most; returns whether it does.
async fn wait(holds: impl Fn() -> bool, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Replaces `pid` by this process's id if a process of that number exists: PostgreSQL treats a lock
/// file of its parent as stale. The rest of the file is kept, so PostgreSQL still finds the shared
/// memory of the former server and waits for its release.
fn disown(file: &Path, text: &str, pid: u32) -> io::Result<()> {
    if !exists(pid) {
        return Ok(());
    }
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    let text = format!("{}\n{rest}", std::process::id());
    let mut opened = match File::options().write(true).open(file) {
        // The server removed it as it ended.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    opened.write_all(text.as_bytes())?;
    opened.set_len(text.len() as u64)
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

    use super::{disown, serves};

    #[test]
    fn only_a_number_that_is_in_use_is_replaced_in_a_lock_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("postmaster.pid");
        let text = "1\n/d/pg\n1700000000\n";
        std::fs::write(&file, text).unwrap();
        disown(&file, text, 1).unwrap();
        let changed = std::fs::read_to_string(&file).unwrap();
        assert_eq!(changed, format!("{}\n/d/pg\n1700000000\n", std::process::id()));
        disown(&file, &changed, u32::MAX >> 1).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), changed);
        disown(&directory.path().join("none"), text, 1).unwrap();
    }

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
