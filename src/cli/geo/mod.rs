//! The commands of `geo-load` about distances: `predict`, `net`, and runs of scenarios.

mod net;
mod predict;

pub(super) use self::net::Net;
pub(super) use self::predict::Predict;
