//! The options of a bench: its benchmark cases, rounds and lengths.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::case::BenchmarkCase;

/// Options of a bench.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cases to run; not empty.
    pub cases: Vec<BenchmarkCase>,
    /// How many turns each has, from 1.
    pub rounds: usize,
    /// Measured time of each turn.
    pub length: Duration,
    /// How long [`BenchmarkCase::Memory`] runs.
    pub memory_length: Duration,
    /// Whether the raw limit waits for the disk at each commit, as the applier does by default.
    pub raw_is_synchronous: bool,
    /// Ends the bench after the turn under way.
    pub stop: CancellationToken,
}
