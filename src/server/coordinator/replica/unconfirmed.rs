//! Tracks entries that were sequenced before openraft committed them.
//!
//! Each is compared with the entry that openraft commits at its index; on a difference this
//! coordinator stops.

use std::collections::VecDeque;
use std::io;

use crate::coordinator::consensus::type_config::LogId;

/// Most entries ahead of openraft; beyond them its commit is awaited.
const AHEAD_MAX: usize = 65_536;

/// Entries sequenced by quorum acks only.
#[derive(Debug, Default)]
pub(crate) struct UnconfirmedEntries {
    ahead: VecDeque<LogId>,
    is_held: bool,
}

impl UnconfirmedEntries {
    /// Whether another entry may be sequenced ahead of openraft.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.is_held && self.ahead.len() < AHEAD_MAX
    }

    /// Whether openraft has committed every sequenced entry.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Pauses or resumes early sequencing.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Records an entry sequenced ahead of openraft.
    pub(crate) fn push(&mut self, log_id: LogId) {
        self.ahead.push_back(log_id);
    }

    /// Confirms `log_id`, committed by openraft and no newer than the newest sequenced entry.
    ///
    /// # Errors
    /// If another entry was sequenced at its index.
    pub(crate) fn confirm(&mut self, log_id: &LogId) -> io::Result<()> {
        if self.ahead.front().is_none_or(|first| first.index > log_id.index) {
            return Ok(());
        }
        match self.ahead.pop_front() {
            Some(first) if first == *log_id => Ok(()),
            first => Err(differs(first.as_ref(), log_id)),
        }
    }

    /// Confirms all entries up to the last one of a snapshot.
    ///
    /// # Errors
    /// If another entry was sequenced at its index.
    pub(crate) fn confirm_upto(&mut self, last: &LogId) -> io::Result<()> {
        while self.ahead.front().is_some_and(|first| first.index < last.index) {
            self.ahead.pop_front();
        }
        self.confirm(last)
    }
}

fn differs(unconfirmed: Option<&LogId>, committed: &LogId) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the entry {unconfirmed:?} was sequenced by the acks of a majority and {committed} is \
             committed in its place; this coordinator stops; set acks = \"leader\" everywhere and \
             report this"
        ),
    )
}
