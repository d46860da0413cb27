//! What was sequenced before openraft knew it to be committed. Each such entry is compared with the
//! one that openraft commits at its index: were they ever to differ, this coordinator stops.

use std::collections::VecDeque;
use std::io;

use crate::coordinator::consensus::type_config::LogId;

/// Most entries that may be sequenced ahead of openraft; beyond, its word is waited for.
const AHEAD_MAX: usize = 65_536;

/// See the module.
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

    /// Whether openraft has committed all that was sequenced.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.ahead.is_empty()
    }

    /// While held, nothing more is sequenced ahead.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The entry was sequenced ahead of openraft.
    pub(crate) fn push(&mut self, log_id: LogId) {
        self.ahead.push_back(log_id);
    }

    /// openraft has committed `log_id`, which is no newer than what was sequenced.
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

    /// As [`Self::confirm`], of all entries up to the last one of a snapshot.
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

fn differs(early: Option<&LogId>, committed: &LogId) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the entry {early:?} was sequenced by the acks of a majority and {committed} is \
             committed in its place; this coordinator stops; set acks = \"leader\" everywhere and \
             report this"
        ),
    )
}
