//! What every long-running command shares: when it is told to end, and how it says why it could
//! not start.

use std::io::Read as _;
use std::process::ExitCode;

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
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    eprintln!("error: {text}");
    ExitCode::from(code)
}
