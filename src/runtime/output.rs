//! Output of commands: every printed line goes through this module.
//!
//! Nothing here panics or ends the process. The first failed write to standard output is remembered for the
//! exit code; what is printed afterwards is dropped. A reader that has gone (`pghc place | head -1`) is no
//! failure. Standard error is for people: writes to it may fail.

use std::io::{self, ErrorKind, Write};

use parking_lot::Mutex;

pub use crate::telemetry::say as complain;

/// Why standard output takes nothing any longer.
static BROKEN: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line to standard output.
pub fn print(text: &str) {
    put(&format!("{text}\n"));
}

/// Prints a text as it is to standard output.
pub fn put(text: &str) {
    let mut broken = BROKEN.lock();
    if broken.is_none() {
        *broken = write(&mut io::stdout().lock(), text).err();
    }
}

/// Standard output for a command that writes more than texts, for example an export. A failed write is
/// remembered as that of a text is.
#[derive(Debug, Default)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        attempt(|out| out.write_all(bytes).map(|()| bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        attempt(|out| out.flush())
    }
}

/// Does something with standard output, unless it has failed before.
fn attempt<T>(act: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<T>) -> io::Result<T> {
    let mut broken = BROKEN.lock();
    if let Some(error) = &*broken {
        return Err(error.kind().into());
    }
    act(&mut io::stdout().lock()).map_err(|error| {
        let kind = error.kind();
        *broken = Some(error);
        kind.into()
    })
}

/// Whether standard output takes nothing any longer, for whatever reason.
#[must_use]
pub fn has_ended() -> bool {
    BROKEN.lock().is_some()
}

/// Prints a text that the next one overwrites to standard error.
pub fn show(text: &str) {
    let _ = write(&mut io::stderr().lock(), text);
}

/// Why something that was printed is lost; `None` when nothing is, or its reader has gone.
#[must_use]
pub fn failure() -> Option<String> {
    let broken = BROKEN.lock();
    let error = broken.as_ref().filter(|error| error.kind() != ErrorKind::BrokenPipe)?;
    Some(format!("cannot write to standard output: {error}"))
}

fn write(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}
