//! What every long-running command shares: when it is told to end, and how it says why it could
//! not start, in one line that names the thing.

use std::ffi::OsString;
use std::io::Read as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Exit code of wrong usage or settings; nothing was started.
pub const USAGE: u8 = 2;

/// Resolves when the process is told to end: SIGTERM, SIGINT, or, with `lifeline`, the end of
/// standard input, which is how children of a killed supervisor notice.
pub async fn told_to_end(lifeline: bool) -> &'static str {
    let (sender, parent_gone) = oneshot::channel::<()>();
    if lifeline {
        // A thread, because a read of standard input cannot be cancelled.
        std::thread::spawn(move || {
            let mut byte = [0];
            while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
            drop(sender);
        });
    } else {
        std::mem::forget(sender);
    }
    let term = async {
        match signal(SignalKind::terminate()) {
            Ok(mut term) => term.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = term => "SIGTERM",
        _ = tokio::signal::ctrl_c() => "SIGINT",
        _ = parent_gone => "end of standard input",
    }
}

/// Prints an error with its causes on one line.
pub fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("error: {}", with_causes(error));
    ExitCode::from(code)
}

/// An error and what caused it, without what was said before.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
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

/// The arguments of `program`, or its exit code: help and version are printed and end in success,
/// an error is printed as one line and ends in [`USAGE`]. An error about a flag of which `origin`
/// knows where else it was set begins with that.
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
            // The output may be closed, which changes nothing.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
        let flag = text_of(&error, ContextKind::InvalidArg);
        let flag = flag.split([' ', '=']).next().unwrap_or_default();
        let origin = origin(flag).map(|origin| format!("{origin}: ")).unwrap_or_default();
        eprintln!("{program}: {origin}{} (see {program} --help)", one_line(&error));
        ExitCode::from(USAGE)
    })
}

/// clap's message without its usage block, and without the value of an argument, which may hold a
/// password.
pub(super) fn one_line(error: &clap::Error) -> String {
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
/// What is wrong, for people.
pub(super) fn url(text: &str) -> Result<String, String> {
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
    fn a_url_of_ours_is_a_scheme_a_host_and_a_port() {
        for good in ["http://127.0.0.1:7101", "http://[::1]:1", "http://eu.example", "http://x:1/"]
        {
            assert_eq!(url(good), Ok(good.trim_end_matches('/').to_owned()));
        }
        for bad in ["", "nonsense", "x:1", "https://x:1", "http://", "http://a b", "http://x/y"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
