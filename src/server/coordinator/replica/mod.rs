//! Replicated state: the sequencer behind committed entries, its replies, batches and snapshots.

pub(crate) mod batch_cache;
pub(crate) mod driver;
pub(crate) mod reply_cache;
pub(crate) mod snapshots;
pub(crate) mod state_machine;
pub(crate) mod unconfirmed;
