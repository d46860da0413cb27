//! Quorum lost for good: what the survivors' directories hold, what may be lost, and how the group
//! goes on from one of them. Offline: no coordinator is started.
//!
//! Invariants: every entry of the survivor is kept, committed or not, since what a majority may have
//! acknowledged must never be dropped; of several survivors the one with the newest entry has every
//! acknowledged write that any of them has (a later leader's log holds everything committed before
//! it); ids that a zone has and the survivor has not are never given up unless they are counted; a
//! zone that has another link than the survivor under any id that was compared is in the way.

mod error;
mod plan;
mod survivor;
mod write;

pub use self::error::RecoverError;
pub use self::plan::{Obstacle, Plan, ZoneChain};
pub use self::survivor::Survivor;
pub use self::write::{Recovered, TERMS_BEYOND, write};
