//! All randomness of a run, from one seed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// A stream of numbers. Clones are the same stream.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let dice = Self(Arc::new(Mutex::new(seed)));
        dice.roll();
        dice
    }

    /// Any number (splitmix64).
    pub(crate) fn roll(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Another stream, independent of how this one goes on.
    pub(crate) fn fork(&self) -> Self {
        Self::new(self.roll())
    }

    /// A number of `low..=high`.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    /// A place of `0..count`.
    pub(crate) fn below(&self, count: usize) -> usize {
        usize::try_from(self.roll() % count as u64).expect("below a usize")
    }

    /// True in so many of a thousand cases.
    pub(crate) fn per_mille(&self, chance: u64) -> bool {
        self.roll() % 1000 < chance
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A time between two, in milliseconds.
    pub(crate) fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }
}
