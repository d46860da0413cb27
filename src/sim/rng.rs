//! All randomness of a run, from one seed.
//!
//! Invariant: no number comes from elsewhere; draws follow the order of the calls.

use std::time::Duration;

use pghc_runtime::task::process::Process;

/// A stream of numbers. Clones are the same stream. A process without tasks holds it, so that seeds
/// and simulated processes share one generator.
#[derive(Clone)]
pub struct SeededRng(Process);

impl SeededRng {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let rng = Self::raw(seed);
        let _ = rng.next_u64();
        rng
    }

    /// The stream of a seed with the first number, which [`Self::new`] discards.
    #[must_use]
    pub(super) fn raw(seed: u64) -> Self {
        Self(Process::new("seeds", seed))
    }

    /// Any number.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.0.random()
    }

    /// Another stream, independent of further draws from this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.next_u64())
    }

    /// A number of `low..=high`.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.next_u64() % (high - low + 1)
    }

    /// A place of `0..count`.
    ///
    /// # Panics
    /// If `count` is 0.
    #[must_use]
    pub fn below(&self, count: usize) -> usize {
        usize::try_from(self.next_u64() % count as u64).expect("below a usize")
    }

    /// True in `chance` of a thousand cases.
    #[must_use]
    pub fn per_mille(&self, chance: u64) -> bool {
        self.next_u64() % 1000 < chance
    }

    /// One of `from`, which is not empty.
    #[must_use]
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A time between two, in milliseconds.
    #[must_use]
    pub fn millis(&self, low: u64, high: u64) -> Duration {
        self.micros((low * 1000, high * 1000))
    }

    /// A time between two, in microseconds.
    #[must_use]
    pub fn micros(&self, (low, high): (u64, u64)) -> Duration {
        Duration::from_micros(self.between(low, high))
    }
}
