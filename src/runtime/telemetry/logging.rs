//! Logging set-up: which events, in which form. Always to standard error, never to standard output,
//! which belongs to the answers of the commands.
//!
//! Invariant: writing a log never fails and never panics, even if its reader has closed or its disk
//! is full.

use std::io::{self, IsTerminal as _, Write};
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Default log filter, overridden by `PGHC_LOG`. openraft logs errors only: it warns of every
/// attempt to reach an absent coordinator, which pghc logs once.
const DEFAULT_FILTER: &str = "info,openraft=error";

/// The form that was set up; none before.
static FORM: OnceLock<Format> = OnceLock::new();

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people; in colour when standard error is a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BadLogging {
    /// `PGHC_LOG_FORMAT` is something else.
    #[error("log format {0:?} is not known: use text or json")]
    Format(String),
    /// `PGHC_LOG` is no filter.
    #[error("log filter {0:?} is not understood: use a level or a list such as info,pghc=debug")]
    Filter(String),
    /// Some subscriber is installed already.
    #[error("logging is already set up in this process")]
    Twice(#[source] TryInitError),
}

impl FromStr for Format {
    type Err = BadLogging;
    fn from_str(text: &str) -> Result<Self, BadLogging> {
        match text {
            "text" | "" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(BadLogging::Format(text.to_owned())),
        }
    }
}

/// Sets up logging for the whole process from the texts of `PGHC_LOG` (a filter; empty: `info`, and
/// of openraft only errors) and `PGHC_LOG_FORMAT` (`text` or `json`; empty: `text`).
///
/// # Errors
/// [`BadLogging`]; nothing is set up then, except that another subscriber may be.
pub fn set_up_logging(filter: &str, format: &str) -> Result<(), BadLogging> {
    let format: Format = format.parse()?;
    let filter = match filter {
        "" => EnvFilter::new(DEFAULT_FILTER),
        text => EnvFilter::try_new(text).map_err(|_| BadLogging::Filter(text.to_owned()))?,
    };
    // Without this, a failed write is reported on standard error, which panics.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let lines = lines.with_writer(|| Tolerant);
    match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        Format::Json => lines.json().flatten_event(true).finish().try_init(),
    }
    .map_err(BadLogging::Twice)?;
    let _ = FORM.set(format);
    Ok(())
}

/// Whether log lines are JSON objects, so that nothing else belongs on standard error.
#[must_use]
pub fn logs_json() -> bool {
    FORM.get() == Some(&Format::Json)
}

/// Writes a line for people to standard error; a failed write is ignored.
pub fn say(line: &str) {
    let _ = writeln!(Tolerant, "{line}");
}

/// Standard error, which takes everything: what cannot be written is lost.
struct Tolerant;

impl Write for Tolerant {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error with all that caused it, in one line: for the log and the operator.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{BadLogging, Format, set_up_logging};

    #[test]
    fn wrong_filter_or_format_is_refused_before_setup() {
        assert!(matches!(set_up_logging("info", "xml"), Err(BadLogging::Format(_))));
        assert!(matches!(set_up_logging("pghc=loud", "text"), Err(BadLogging::Filter(_))));
        assert_eq!("json".parse::<Format>().ok(), Some(Format::Json));
    }
}
