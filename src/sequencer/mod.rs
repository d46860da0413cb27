//! The replicated state machine: pure, no I/O, no clock.
//!
//! Every coordinator feeds it the same committed entries in the same order and so gets the same
//! ids, hashes and digests. It is advanced over the log by whoever knows the commit index; it does
//! not care who that is. Ids are a pure function of the log.

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

pub use entry::{Batch, Entry, EntryError, Heading, SessionId, Write};
pub use marks::{COARSEST, MIDDLE, Marks};
pub use positions::{Position, Positions};
pub use snapshot::{SnapshotError, View};
pub use state::{Outcome, Sequenced, Sequencer, extend};
pub use zones::{ENTRY_FORMAT, Registration, ZoneAct, ZoneChange, Zones};
