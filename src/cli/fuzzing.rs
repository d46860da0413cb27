//! Seam of `tests/fuzz`: arguments of the processes. In no release.

use clap::Parser;
use clap::error::ErrorKind;

use super::{api, coordinator};

#[derive(Debug, Parser)]
enum Process {
    Api(Box<api::Arguments>),
    Coordinator(Box<coordinator::Arguments>),
}

/// A command line, its words ended by line ends.
///
/// # Panics
/// If the parser or its message panics.
pub fn arguments(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let words = ["pghc"].into_iter().chain(text.split('\n'));
    let Err(error) = Process::try_parse_from(words) else { return };
    // Help is printed as it is.
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if error.use_stderr() && !is_help {
        assert!(!pghc_runtime::program::one_line(&error).is_empty());
    }
}
