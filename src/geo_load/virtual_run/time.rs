//! Virtual time as the figures of a run tell it.

use pghc_lab::run::watch::seconds_from;
use tokio::time::Instant;

/// Virtual seconds since `zero`, below 0 before it.
pub(super) fn since(zero: Instant) -> f64 {
    seconds_from(zero.into_std(), Instant::now().into_std())
}
