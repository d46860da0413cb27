//! The replicated state of one group: the sequencer behind the committed entries, what it answers, its snapshots.

pub(crate) mod batch_cache;
pub(crate) mod driver;
pub(crate) mod reply_cache;
pub(crate) mod snapshots;
pub(crate) mod state_machine;
pub(crate) mod unconfirmed;
