//! Replicated state machine: assigns ids to committed writes. Pure: no I/O, no clock.
//!
//! Every coordinator feeds it the same committed entries in the same order and so gets the same
//! ids, hashes and digests. Ids are a pure function of the log. The caller knows the commit index.

mod entry;
mod keys;
mod marks;
mod positions;
mod sessions;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod zones;

pub use entry::{Batch, BatchHeader, Entry, EntryError, SessionId, Write};
pub use marks::{COARSEST, MIDDLE, Marks};
pub use positions::{Position, Positions};
pub use snapshot::{SnapshotError, View};
pub use state::{OrderResult, Sequenced, Sequencer, extend};
pub use zones::{ENTRY_FORMAT, Registration, ZoneAct, ZoneChange, Zones};
