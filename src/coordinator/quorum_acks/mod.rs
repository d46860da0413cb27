//! All-to-all acks: every voter tells every coordinator what it has durably on its disk and under
//! which vote; whoever hears a majority say so knows that entries are committed without waiting for
//! the leader's word.
//!
//! A short cut and nothing more: openraft's own commit sequences the same entries when this is off,
//! late or in doubt. The rule is `tally`, pure; the argument for it is DESIGN.md beside this file.
//!
//! | room | holds |
//! |---|---|
//! | `tally` | the rule: acks in, what is committed out |
//! | `board` | what was said by whom, shared by log, network and counting |
//! | `counting` | the task that sequences what the rule proves |
//! | `early` | what was sequenced before openraft knew it, to be compared when it does |
//! | `sending` | the way to the other coordinators |

pub(crate) mod ack_stream;
pub(crate) mod commit_task;
pub(crate) mod progress;
pub(crate) mod quorum;
#[cfg(test)]
mod tests;

/// By what a coordinator knows that entries are committed. Coordinators of one group may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// It tells all others what is on its disk and counts what they tell, beside the leader's word.
    #[default]
    AllToAll,
    /// By the leader's word alone; it neither tells nor counts.
    Leader,
}
