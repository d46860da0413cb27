//! Progress display of `pghc dev`: a terminal has one line that is rewritten, other outputs get
//! plain lines, and the log of a supervisor gets changes only.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::view;

/// Interval of the status display on a terminal.
const LIVE_EVERY: Duration = Duration::from_millis(500);
/// How often it is shown where lines stay.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Screen {
    live: Option<ProgressBar>,
    is_log: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        let live = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let bar = || {
            let style = ProgressStyle::with_template("{wide_msg}");
            let style = style.expect("the template is constant and valid");
            ProgressBar::new_spinner().with_style(style)
        };
        Self { live: live.then(bar), is_log: false }
    }

    /// The log of a background supervisor.
    pub(super) fn log() -> Self {
        Self { live: None, is_log: true }
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.live {
            Some(bar) => bar.println(text),
            None => view::print(text),
        }
    }

    /// The status, in the place of the one before where that is possible.
    pub(super) fn show(&self, text: &str) {
        match &self.live {
            Some(bar) => bar.set_message(text.to_owned()),
            None => view::print(text),
        }
    }

    /// Time from one status to the next; `None` where none is shown.
    pub(super) fn pause(&self) -> Option<Duration> {
        if self.is_log {
            return None;
        }
        Some(if self.live.is_some() { LIVE_EVERY } else { PLAIN_EVERY })
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.live {
            bar.finish_and_clear();
        }
    }
}
