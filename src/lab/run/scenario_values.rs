//! Value types of a scenario: times, sizes, key distributions, process names.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pghc_dev::deployment::Part;
use pghc_wan::conditions::{parse_duration, show_duration};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// Largest payload of a scenario in bytes.
pub const VALUE_BYTES_MAX: usize = 1_000_000;

/// A time such as `15s` or `200ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

/// Sizes of payloads: one, or evenly between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sizes {
    /// Smallest in bytes.
    pub least: usize,
    /// Largest in bytes.
    pub most: usize,
}

/// Which of many keys is drawn; 0 is the most wanted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Draw {
    /// All alike.
    Uniform,
    /// By Zipf's law with this exponent, above 0 and at most 3.
    Zipf(f64),
}

/// A process of the deployment: `coordinator@eu`, `postgres@leader`, `api@us`, `api-2@us`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProcessName {
    /// The kind of process.
    pub part: PartName,
    /// Its zone, or `leader`: the leader's zone at that time.
    pub zone: String,
}

/// A part of a zone, as a scenario names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartName {
    /// The coordinator.
    Coordinator,
    /// PostgreSQL.
    Postgres,
    /// An API node, from 0.
    Api(usize),
}

impl From<PartName> for Part {
    fn from(part: PartName) -> Self {
        match part {
            PartName::Coordinator => Self::Coordinator,
            PartName::Postgres => Self::Postgres,
            PartName::Api(node) => Self::Api(node),
        }
    }
}

/// Draws numbers below `space` by a [`Draw`], in constant time and memory.
#[derive(Debug, Clone)]
pub struct ValueGenerator {
    draw: Draw,
    space: u64,
}

impl ValueGenerator {
    /// Draws below `space`, at least 1.
    #[must_use]
    pub fn new(draw: Draw, space: u64) -> Self {
        Self { draw, space: space.max(1) }
    }

    /// The next number.
    pub fn next(&self, random: &mut StdRng) -> u64 {
        match self.draw {
            Draw::Uniform => random.random_range(0..self.space),
            Draw::Zipf(exponent) => zipf(self.space, exponent, random),
        }
    }
}

/// Rejection from the curve x^-s over [0.5, n + 0.5], which lies above every step of the law after
/// the first.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers below 2^52, checked bounds"
)]
fn zipf(space: u64, s: f64, random: &mut StdRng) -> u64 {
    // The area below the curve up to x, and its inverse.
    let area = |x: f64| {
        if (s - 1.0).abs() < 1e-9 { x.ln() } else { (x.powf(1.0 - s) - 1.0) / (1.0 - s) }
    };
    let inverse = |y: f64| {
        if (s - 1.0).abs() < 1e-9 { y.exp() } else { (1.0 + y * (1.0 - s)).powf(1.0 / (1.0 - s)) }
    };
    let (low, high) = (area(0.5), area(space as f64 + 0.5));
    loop {
        let x = inverse(random.random_range(low..=high));
        let k = x.round().clamp(1.0, space as f64);
        // The curve over the step's own width, against the step.
        let step = area(k + 0.5) - area(k - 0.5);
        if random.random_range(0.0..1.0) * step <= k.powf(-s) {
            return k as u64 - 1;
        }
    }
}

impl Sizes {
    /// The next size in bytes.
    pub fn next(&self, random: &mut StdRng) -> usize {
        random.random_range(self.least..=self.most)
    }
}

impl FromStr for Sizes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let sizes = Self { least: bytes(least)?, most: bytes(most)? };
        if sizes.least > sizes.most {
            return Err(format!("{text:?} is the wrong way round"));
        }
        Ok(sizes)
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is not a size such as 256B or 4kB up to {VALUE_BYTES_MAX} B");
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "B" => 1,
        "kB" => 1_000,
        _ => return Err(wrong()),
    };
    let number: usize = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|bytes| *bytes <= VALUE_BYTES_MAX).ok_or_else(wrong)
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            write!(f, "{}B", self.least)
        } else {
            write!(f, "{}B..{}B", self.least, self.most)
        }
    }
}

impl FromStr for Draw {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is neither `uniform` nor `zipf 0.99` (above 0, at most 3)");
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let exponent = text.strip_prefix("zipf ").ok_or_else(wrong)?;
        let exponent: f64 = exponent.trim().parse().map_err(|_| wrong())?;
        let allowed = exponent > 0.0 && exponent <= 3.0;
        allowed.then_some(Self::Zipf(exponent)).ok_or_else(wrong)
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf {exponent}"),
        }
    }
}

impl FromStr for ProcessName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a process such as coordinator@leader, postgres@eu, api@us");
        let (part, zone) =
            text.split_once('@').filter(|(_, zone)| !zone.is_empty()).ok_or_else(wrong)?;
        let part = match part {
            "coordinator" => PartName::Coordinator,
            "postgres" => PartName::Postgres,
            "api" => PartName::Api(0),
            other => {
                let number = other.strip_prefix("api-").and_then(|number| number.parse().ok());
                PartName::Api(number.and_then(|n: usize| n.checked_sub(1)).ok_or_else(wrong)?)
            }
        };
        Ok(Self { part, zone: zone.to_owned() })
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            PartName::Coordinator => write!(f, "coordinator@{}", self.zone),
            PartName::Postgres => write!(f, "postgres@{}", self.zone),
            PartName::Api(node) => write!(f, "api-{}@{}", node + 1, self.zone),
        }
    }
}

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_duration(self.0))
    }
}

/// Serde by the words above.
macro_rules! in_text {
    ($($kind:ty),*) => {$(
        impl TryFrom<String> for $kind {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$kind> for String {
            fn from(value: $kind) -> Self {
                value.to_string()
            }
        }
    )*};
}
in_text!(Time, Sizes, Draw, ProcessName);

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{Draw, ProcessName, Sizes, ValueGenerator};

    #[test]
    fn words_are_read_as_they_are_written() {
        for text in ["256B", "256B..4000B"] {
            assert_eq!(text.parse::<Sizes>().expect(text).to_string(), text);
        }
        assert_eq!("1kB..4kB".parse::<Sizes>(), Ok(Sizes { least: 1_000, most: 4_000 }));
        for text in ["uniform", "zipf 0.99", "zipf 1"] {
            assert_eq!(text.parse::<Draw>().expect(text).to_string(), text);
        }
        for text in ["coordinator@leader", "postgres@eu", "api-2@us"] {
            assert_eq!(text.parse::<ProcessName>().expect(text).to_string(), text);
        }
        assert!("4kB..1kB".parse::<Sizes>().is_err() && "2MB".parse::<Sizes>().is_err());
        assert!("zipf 4".parse::<Draw>().is_err() && "pareto".parse::<Draw>().is_err());
        assert!(
            "api-0@eu".parse::<ProcessName>().is_err()
                && "coordinator".parse::<ProcessName>().is_err()
        );
    }

    /// Against the law itself: the share of rank k is k^-s over the sum of all.
    #[test]
    fn zipf_draws_each_rank_by_its_share() {
        for exponent in [0.5, 0.99, 1.0, 2.0] {
            let (space, draws) = (100_u32, 200_000_u32);
            let values = ValueGenerator::new(Draw::Zipf(exponent), space.into());
            let mut random = StdRng::seed_from_u64(7);
            let mut counts = vec![0_u32; space as usize];
            for _ in 0..draws {
                counts[usize::try_from(values.next(&mut random)).expect("small")] += 1;
            }
            let sum: f64 = (1..=space).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for rank in [1_u32, 2, 3, 10, 50, 100] {
                let wanted = f64::from(draws) * f64::from(rank).powf(-exponent) / sum;
                let got = f64::from(counts[rank as usize - 1]);
                let five_sigma = 5.0 * wanted.sqrt() + 1.0;
                assert!((got - wanted).abs() < five_sigma, "{exponent}: {rank}: {got}, {wanted}");
            }
        }
    }
}
