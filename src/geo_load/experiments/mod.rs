//! The commands of `geo-load` about distances: `predict`, `net`, and runs of scenarios.

mod net;
mod predict;
mod run;

pub(super) use self::net::Net;
pub(super) use self::predict::Predict;
pub(super) use self::run::{Compare, On, Report, Run, Sweep, once, with_site};
