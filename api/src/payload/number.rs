//! Which JSON numbers PostgreSQL's `numeric`, and so `jsonb`, can hold.
//!
//! Exact for everything but zeros with absurd exponents, of which PostgreSQL takes some and this
//! takes none. `json` itself would store any number; what is derived from it would fail later.

/// Most digits after the decimal point that `numeric` keeps.
const SCALE_MAX: i64 = 16_383;

/// Largest power of ten that `numeric` can lead with: 131,072 digits before the decimal point.
const LEADING_POWER_MAX: i64 = 131_071;

/// No exponent beyond this helps a number of at most some megabytes of text back into bounds.
const EXPONENT_MAX: i64 = 1 << 30;

/// Parts of a number's text; digits only.
pub(super) struct Parts<'a> {
    pub(super) whole: &'a [u8],
    pub(super) fraction: &'a [u8],
    pub(super) exponent: &'a [u8],
    pub(super) exponent_is_negative: bool,
}

impl Parts<'_> {
    /// Whether `numeric` holds the number.
    pub(super) fn is_numeric(&self) -> bool {
        // Only long texts and exponents can leave the bounds.
        if self.exponent.is_empty() && self.whole.len() + self.fraction.len() < 16_000 {
            return true;
        }
        let Some(exponent) = self.exponent() else { return false };
        let length = |digits: &[u8]| i64::try_from(digits.len()).unwrap_or(i64::MAX / 4);
        if length(self.fraction) - exponent > SCALE_MAX {
            return false;
        }
        let leading = |digits: &[u8]| digits.iter().position(|digit| *digit != b'0');
        let power = match (leading(self.whole), leading(self.fraction)) {
            (Some(zeros), _) => length(&self.whole[zeros..]) - 1,
            (None, Some(zeros)) => -1 - length(&self.fraction[..zeros]),
            // A zero: bound it as if it were a one.
            (None, None) => 0,
        };
        power + exponent <= LEADING_POWER_MAX
    }

    fn exponent(&self) -> Option<i64> {
        let mut number = 0_i64;
        for digit in self.exponent {
            number = number * 10 + i64::from(digit - b'0');
            if number > EXPONENT_MAX {
                return None;
            }
        }
        Some(if self.exponent_is_negative { -number } else { number })
    }
}
