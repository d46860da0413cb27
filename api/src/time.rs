//! Commit times: whole microseconds since the Unix epoch, the resolution PostgreSQL stores.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A commit time in microseconds since 1970-01-01T00:00:00Z; printed as RFC 3339 with six digits.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Micros(pub i64);

impl Micros {
    /// The earliest commit time: the beginning of year 1. PostgreSQL and RFC 3339 can say it.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// The latest commit time: the end of year 9998. PostgreSQL and RFC 3339 can say it.
    pub const MAX: Self = Self(253_370_764_799_999_999);
}

/// The text is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time such as 2026-11-20T10:00:00.000000Z")]
pub struct BadTime(String);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{} us", self.0),
        }
    }
}

impl FromStr for Micros {
    type Err = BadTime;
    fn from_str(text: &str) -> Result<Self, BadTime> {
        let time: jiff::Timestamp = text.parse().map_err(|_| BadTime(text.to_owned()))?;
        Ok(Self(time.as_microsecond()))
    }
}

impl TryFrom<String> for Micros {
    type Error = BadTime;
    fn try_from(text: String) -> Result<Self, BadTime> {
        text.parse()
    }
}

impl From<Micros> for String {
    fn from(time: Micros) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Micros;

    #[test]
    fn commit_time_has_text_at_both_bounds() {
        assert_eq!(Micros::MIN.to_string(), "0001-01-01T00:00:00.000000Z");
        assert_eq!(Micros::MAX.to_string(), "9998-12-31T23:59:59.999999Z");
        for time in [Micros::MIN, Micros::MAX] {
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn a_time_survives_its_text_to_the_microsecond() {
        for micros in [0, 1, 1_700_000_000_000_000, 1_700_000_000_123_456] {
            let text = Micros(micros).to_string();
            assert_eq!(text.parse(), Ok(Micros(micros)), "{text}");
        }
        assert_eq!(Micros(1_700_000_000_000_000).to_string(), "2023-11-14T22:13:20.000000Z");
    }
}
