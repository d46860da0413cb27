//! Shared by all programs: end signals, and the final error: one line that names its cause, or,
//! with a JSON log, the last event.
//!
//! Exit codes of `pghc coordinator` and `pghc api`: 0 told to end; 1 it cannot go on, or its data is not its
//! own; 2 wrong usage or settings, nothing was started; 134 (SIGABRT) a panic, a bug of pghc.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::output;
use crate::telemetry::{logs_json, say};

/// Exit code of wrong usage or settings; nothing was started.
pub const USAGE: u8 = 2;

/// Why the process ends, as it was complained of last.
static COMPLAINT: Mutex<Option<String>> = Mutex::new(None);

/// Whether a server was started, whose log reports how it ended.
static SERVES: AtomicBool = AtomicBool::new(false);

/// How [`Ends::told`] calls the signal that a supervisor sends.
pub const SIGTERM: &str = "SIGTERM";

/// Signals that end the process: SIGTERM, SIGINT, or, with `lifeline`, the end of standard input,
/// which tells children that their supervisor was killed.
pub struct Ends {
    term: Option<Signal>,
    interrupt: Option<Signal>,
    parent_gone: Option<oneshot::Receiver<()>>,
}

impl Ends {
    /// Listens from now on.
    pub fn new(lifeline: bool) -> Self {
        let parent_gone = lifeline.then(|| {
            let (sender, parent_gone) = oneshot::channel::<()>();
            // A thread, because a read of standard input cannot be cancelled.
            std::thread::spawn(move || {
                let mut byte = [0];
                while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
                drop(sender);
            });
            parent_gone
        });
        let of = |kind| signal(kind).ok();
        let (term, interrupt) = (of(SignalKind::terminate()), of(SignalKind::interrupt()));
        Self { term, interrupt, parent_gone }
    }

    /// Resolves at each end signal; returns its name.
    pub async fn told(&mut self) -> &'static str {
        tokio::select! {
            () = next(self.term.as_mut()) => SIGTERM,
            () = next(self.interrupt.as_mut()) => "SIGINT",
            () = gone(&mut self.parent_gone) => "end of standard input",
        }
    }
}

async fn next(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Resolves once, when the parent has ended.
async fn gone(parent: &mut Option<oneshot::Receiver<()>>) {
    match parent {
        Some(receiver) => {
            let _ = receiver.await;
            *parent = None;
        }
        None => std::future::pending().await,
    }
}

/// Resolves at an end signal; see `Ends`.
pub async fn told_to_end(lifeline: bool) -> &'static str {
    Ends::new(lifeline).told().await
}

/// Prints an error of `pghc` with its causes on one line.
pub fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    complain_of("pghc", &with_causes(error), code)
}

/// Prints why the process ends, behind the program's name and a colon; a JSON log gets it with [`conclude`] instead.
pub fn complain_of(program: &str, why: &str, code: u8) -> ExitCode {
    if !logs_json() {
        say(&format!("{program}: {why}"));
    }
    *COMPLAINT.lock() = Some(why.to_owned());
    ExitCode::from(code)
}

/// The exit code of a command that would end with `code`. If output was lost for another reason
/// than a closed pipe, prints the error and returns `failed`.
pub fn finish(program: &str, code: ExitCode, failed: u8) -> ExitCode {
    match output::failure() {
        None => code,
        Some(why) => complain_of(program, &format!("the output is not complete: {why}"), failed),
    }
}

/// From now on this process is a server.
pub fn serves() {
    SERVES.store(true, Ordering::Relaxed);
}

/// The last event of the log: with which exit code the process ends, and why. Of a command for people the
/// code says it, and what it has printed.
pub fn conclude(code: ExitCode) -> ExitCode {
    let number = (0..=u8::MAX).find(|number| ExitCode::from(*number) == code).unwrap_or_default();
    let why = COMPLAINT.lock().take();
    let why = why.unwrap_or_else(|| "standard output says it".to_owned());
    match code == ExitCode::SUCCESS {
        true if SERVES.load(Ordering::Relaxed) || logs_json() => {
            tracing::info!(exit_code = number, "process ended");
        }
        false if logs_json() => tracing::error!(exit_code = number, error = why, "process ended"),
        true | false => {}
    }
    code
}

/// Prints a line for people to standard error, or logs it where the log is JSON.
pub fn remark(text: &str) {
    if logs_json() {
        tracing::warn!("{text}");
    } else {
        say(text);
    }
    *COMPLAINT.lock() = Some(text.to_owned());
}

/// Sets up the log of a program that has none unless it is to be JSON, and what a panic does.
pub fn set_up_plain() {
    if std::env::var("PGHC_LOG_FORMAT").is_ok_and(|format| format == "json") {
        let filter = std::env::var("PGHC_LOG").ok().filter(|filter| !filter.is_empty());
        let filter = filter.unwrap_or_else(|| "warn".to_owned());
        if let Err(error) = crate::telemetry::set_up_logging(&filter, "json") {
            say(&format!("PGHC_LOG: {error}"));
        }
    }
    crate::task::end_on_panic();
    crate::connections::raise_limit();
}

/// An error and its causes, without repetitions.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The arguments of `program`, or its exit code. Help and version are printed and end in success;
/// an error is printed as one line and ends in [`USAGE`]. An error about a flag that `origin`
/// traces to another source begins with that source.
///
/// # Errors
/// The exit code with which the process should end.
pub fn parse<T: Parser>(
    program: &str,
    words: Vec<OsString>,
    origin: impl Fn(&str) -> Option<String>,
) -> Result<T, ExitCode> {
    T::try_parse_from(words).map_err(|error| {
        if !error.use_stderr()
            || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        {
            return help(&error);
        }
        let flag = text_of(&error, ContextKind::InvalidArg);
        let flag = flag.split([' ', '=']).next().unwrap_or_default();
        let origin = origin(flag).map(|origin| format!("{origin}: ")).unwrap_or_default();
        complain_of(program, &format!("{origin}{} (see {program} --help)", one_line(&error)), USAGE)
    })
}

/// Prints help or the version; returns the exit code.
pub fn help(error: &clap::Error) -> ExitCode {
    let (text, is_failure) = (error.render(), error.use_stderr());
    let is_terminal =
        if is_failure { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
    let text = if is_terminal { text.ansi().to_string() } else { text.to_string() };
    if is_failure {
        say(text.trim_end());
        return ExitCode::from(USAGE);
    }
    output::put(&text);
    ExitCode::SUCCESS
}

/// clap's message without its usage block, and without the value of an argument, which may hold a
/// password.
pub fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::ValueValidation {
        let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        return without_secrets(&format!("{}: {reason}", text_of(error, ContextKind::InvalidArg)));
    }
    let message = error.render().to_string();
    let lines = message.lines().take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    let text = text
        .trim_start_matches("error: ")
        .trim_end_matches("For more information, try '--help'.")
        .trim();
    without_secrets(text)
}

/// The text without connection strings that it quotes: each from its `postgres://` or its first
/// `password=` on, as far as the quote or the text goes.
fn without_secrets(text: &str) -> String {
    let marks = ["postgres://", "postgresql://", "password=", "password ="];
    let hints = ["postgres://user@host:port/database", "postgres://…", "password='…'"];
    let is_hint = |at: usize| hints.iter().any(|hint| text[at..].starts_with(hint));
    let places = marks.iter().flat_map(|mark| text.match_indices(mark)).map(|(at, _)| at);
    let Some(start) = places.filter(|at| !is_hint(*at)).min() else {
        return text.to_owned();
    };
    let (before, secret) = text.split_at(start);
    // clap closes its quote with `' found`, a name with `" is`; a password may hold a quote itself.
    let end = ["' found", "' for", "\" is "].iter().filter_map(|close| secret.rfind(close)).max();
    format!("{before}…{}", end.map_or("", |end| &secret[end..]))
}

fn text_of(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    }
}

/// Checks the URL of a process of ours, `http://host:port`, and answers it without a slash at its
/// end.
///
/// # Errors
/// The error, for people.
pub fn url(text: &str) -> Result<String, String> {
    let wanted = || format!("{text:?} is not a URL such as http://127.0.0.1:7101");
    let url: reqwest::Url = text.parse().map_err(|_| wanted())?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if url.scheme() != "http" || !is_bare || !url.username().is_empty() || url.password().is_some()
    {
        return Err(wanted());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::{url, without_secrets};

    #[test]
    fn a_connection_string_in_a_message_is_left_out() {
        for (text, shown) in [
            (
                "unexpected argument 'postgres://u:se'same@h/d' found",
                "unexpected argument '…' found",
            ),
            (
                "zone name \"postgres://u:sesame@h/d?a\" is not allowed: x",
                "zone name \"…\" is not allowed: x",
            ),
            ("got 'host=h password=sesame user=u' found", "got 'host=h …' found"),
            ("want postgresql://u:sesame", "want …"),
            ("nothing here", "nothing here"),
            ("want NAME=postgres://… or password='…'", "want NAME=postgres://… or password='…'"),
            ("want postgres://…: postgres://u:sesame@h", "want postgres://…: …"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn url_is_scheme_host_port() {
        for good in ["http://127.0.0.1:7101", "http://[::1]:1", "http://eu.example", "http://x:1/"]
        {
            assert_eq!(url(good), Ok(good.trim_end_matches('/').to_owned()));
        }
        for bad in ["", "nonsense", "x:1", "https://x:1", "http://", "http://a b", "http://x/y"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
