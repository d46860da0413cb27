//! Recovers a group offline after its quorum is lost for good.
//!
//! It reads the survivors' directories, reports possible losses, and lets the group continue from
//! one of them. No coordinator is started. Invariants:
//!
//! - Every entry of the survivor is kept, committed or not: a majority may have acknowledged it.
//! - The survivor with the newest entry holds every acknowledged write of all survivors, because a
//!   later leader's log holds everything committed before.
//! - Ids that a zone has and the survivor lacks are never dropped without a count.
//! - A zone with a different link under any compared id is an obstacle.

mod error;
mod plan;
mod survivor;
mod write;

pub use self::error::RecoverError;
pub use self::plan::{Obstacle, Plan, ZoneChain};
pub use self::survivor::Survivor;
pub use self::write::{Recovered, TERMS_BEYOND, write};
