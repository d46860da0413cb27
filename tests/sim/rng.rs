//! All randomness of a run, from one seed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// A stream of numbers. Clones are the same stream.
#[derive(Clone)]
pub(crate) struct SeededRng(Arc<Mutex<u64>>);

impl SeededRng {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = Self(Arc::new(Mutex::new(seed)));
        rng.next_u64();
        rng
    }

    /// Any number (splitmix64).
    pub(crate) fn next_u64(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Another stream, independent of further draws from this one.
    pub(crate) fn fork(&self) -> Self {
        Self::new(self.next_u64())
    }

    /// A number of `low..=high`.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        low + self.next_u64() % (high - low + 1)
    }

    /// A place of `0..count`.
    pub(crate) fn below(&self, count: usize) -> usize {
        usize::try_from(self.next_u64() % count as u64).expect("below a usize")
    }

    /// True in `chance` of a thousand cases.
    pub(crate) fn per_mille(&self, chance: u64) -> bool {
        self.next_u64() % 1000 < chance
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A time between two, in milliseconds.
    pub(crate) fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }
}
