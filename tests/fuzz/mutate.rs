//! Changes to inputs, by seed: the same seed gives the same inputs on every machine.

/// Longest input in bytes; fields and frames of interest are far shorter.
const INPUT_BYTES_MAX: usize = 4 << 10;

/// Most changes to one input.
const CHANGES_MAX: usize = 6;

/// Bytes at which parsers turn.
const TURNING_POINTS: [u8; 12] = [0, 1, 2, 9, 10, 32, 127, 128, 254, 255, b'"', b'\\'];

/// Random numbers (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % (end.max(1) as u64)).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }

    /// An input: one of `corpus`, changed in a few places.
    pub(crate) fn input(&mut self, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
        let mut bytes = self.pick(corpus).clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut bytes, corpus, words);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
        let at = self.below(bytes.len() + 1);
        let place = self.below(bytes.len());
        match self.below(10) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[place] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[place] = self.byte(),
            3 if !bytes.is_empty() => bytes[place] = *self.pick(&TURNING_POINTS),
            4 => bytes.insert(at, *self.pick(&TURNING_POINTS)),
            5 => drop(bytes.splice(at..at, self.pick(words).bytes())),
            6 => {
                // A piece is left out, or doubled.
                let end = at + self.below((bytes.len() - at).min(64) + 1);
                let piece = bytes[at..end].to_vec();
                let times = self.below(4);
                bytes.splice(at..end, piece.repeat(times));
            }
            7 => {
                // The end of another input.
                let other = self.pick(corpus).clone();
                bytes.truncate(at);
                bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            8 => {
                // A number that is far too large or too small for its field.
                let number = *self.pick(&[0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, 0xffff_ffff]);
                let width = *self.pick(&[2, 4, 8]);
                let number = number.to_le_bytes();
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number[..width].iter().copied());
            }
            _ if !bytes.is_empty() => bytes[place] = bytes[place].wrapping_add(1),
            _ => bytes.push(self.byte()),
        }
    }
}
