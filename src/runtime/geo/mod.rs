//! Distances as numbers: latency of ordered writes between zones, choice of voters and leader, and
//! the matching timing.
//!
//! Pure: nothing here measures, waits or reads a clock. The coordinator decides with it where to lead,
//! the commands and experiments predict with it, so that all of them say the same.

pub mod choose;
pub mod model;
pub mod placement;
pub mod timing;
pub mod topology;
