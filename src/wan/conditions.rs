//! Conditions of one direction between two zones, as settings and as text of command lines and
//! scenario files.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest delay, jitter or time that is understood.
pub const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// Largest share of lost segments; above it nothing real works.
pub const LOSS_MAX: f64 = 0.5;

/// How far delays stray from the matrix. Always later, never earlier: the matrix holds medians, and
/// queues only add.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Jitter {
    /// Not at all.
    #[default]
    None,
    /// By up to this much, all values alike.
    Uniform(Duration),
    /// By a log-normal amount of this median; the logarithm's standard deviation is 1.
    LogNormal(Duration),
}

/// Bits a second that one direction between two zones carries, all connections together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Bandwidth {
    /// As many as this machine can.
    #[default]
    Unlimited,
    /// Upper limit, above 0.
    BitsPerSecond(u64),
}

/// Everything that one direction between two zones does, beside being cut.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Conditions {
    /// One-way delay.
    pub delay: Duration,
    /// Random addition to the delay.
    pub jitter: Jitter,
    /// Share of TCP segments that are lost and sent again, 0 to [`LOSS_MAX`].
    pub loss: f64,
    /// How much fits through.
    pub bandwidth: Bandwidth,
}

/// A change of [`Conditions`]; what is not named stays.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// One-way delay in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<f64>,
    /// See [`Jitter`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Jitter>,
    /// See [`Conditions::loss`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// See [`Bandwidth`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

impl Change {
    /// Refuses values that no network has.
    ///
    /// # Errors
    /// A sentence with the value and its limit.
    pub fn check(&self) -> Result<(), String> {
        let delay_max_ms = DURATION_MAX.as_secs_f64() * 1e3;
        if let Some(ms) = self.delay_ms.filter(|ms| !(0.0..=delay_max_ms).contains(ms)) {
            return Err(format!("a delay of {ms} ms is not between 0 and {delay_max_ms}"));
        }
        match self.loss.filter(|loss| !(0.0..=LOSS_MAX).contains(loss)) {
            Some(loss) => Err(format!("a loss of {loss} is not between 0 and {LOSS_MAX}")),
            None => Ok(()),
        }
    }

    /// Makes the change. Call [`check`](Self::check) first.
    #[must_use]
    pub fn applied_to(&self, old: Conditions) -> Conditions {
        let delay = self.delay_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        Conditions {
            delay: delay.unwrap_or(old.delay),
            jitter: self.jitter.unwrap_or(old.jitter),
            loss: self.loss.unwrap_or(old.loss),
            bandwidth: self.bandwidth.unwrap_or(old.bandwidth),
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads a duration such as `15s`, `0.5ms`, `250us`, `2m` or `1h`, up to [`DURATION_MAX`].
///
/// # Errors
/// A sentence that says what would be understood.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 15s, 0.5ms or 2m, up to a day");
    let text = text.trim();
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    let allowed = (0.0..=DURATION_MAX.as_secs_f64()).contains(&seconds);
    allowed.then(|| Duration::from_secs_f64(seconds)).ok_or_else(wrong)
}

/// Writes a duration as [`parse_duration`] reads it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 || duration.is_zero() {
        format!("{seconds}s")
    } else {
        format!("{}ms", (seconds * 1e9).round() / 1e6)
    }
}

impl FromStr for Jitter {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next().map(parse_duration), words.next()) {
            (Some("none"), None, None) => Ok(Self::None),
            (Some("uniform"), Some(most), None) => Ok(Self::Uniform(most?)),
            (Some("lognormal"), Some(median), None) => Ok(Self::LogNormal(median?)),
            _ => Err(format!("{text:?} is none of `none`, `uniform 2ms`, `lognormal 0.5ms`")),
        }
    }
}

impl fmt::Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Uniform(most) => write!(f, "uniform {}", show_duration(*most)),
            Self::LogNormal(median) => write!(f, "lognormal {}", show_duration(*median)),
        }
    }
}

impl FromStr for Bandwidth {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is neither `unlimited` nor a rate such as 100Mbit or 1Gbit");
        if text.trim() == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let unit = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(unit);
        let factor = match unit {
            "bit" => 1.0,
            "kbit" => 1e3,
            "Mbit" => 1e6,
            "Gbit" => 1e9,
            _ => return Err(wrong()),
        };
        let bits = number.trim().parse::<f64>().map_err(|_| wrong())? * factor;
        if !(1_000.0..=1e12).contains(&bits) {
            return Err(format!("{text:?} is not between 1kbit and 1000Gbit"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let bits = bits as u64;
        Ok(Self::BitsPerSecond(bits))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::BitsPerSecond(bits) if bits.is_multiple_of(1_000_000_000) => {
                write!(f, "{}Gbit", bits / 1_000_000_000)
            }
            Self::BitsPerSecond(bits) if bits.is_multiple_of(1_000_000) => {
                write!(f, "{}Mbit", bits / 1_000_000)
            }
            Self::BitsPerSecond(bits) => write!(f, "{bits}bit"),
        }
    }
}

impl TryFrom<String> for Jitter {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Jitter> for String {
    fn from(jitter: Jitter) -> Self {
        jitter.to_string()
    }
}
impl TryFrom<String> for Bandwidth {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Bandwidth> for String {
    fn from(bandwidth: Bandwidth) -> Self {
        bandwidth.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bandwidth, Change, Conditions, Jitter, parse_duration, show_duration};

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, micros) in [("15s", 15_000_000), ("0.5ms", 500), ("2m", 120_000_000), ("7us", 7)]
        {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_micros(micros), "{text}");
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration), "{text}");
        }
        for bad in ["", "15", "s", "-1s", "NaNs", "25h", "1 fortnight"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn conditions_round_trip_through_text() {
        for text in ["none", "uniform 2ms", "lognormal 0.5ms"] {
            assert_eq!(text.parse::<Jitter>().expect(text).to_string(), text);
        }
        for text in ["unlimited", "100Mbit", "1Gbit", "1500bit"] {
            assert_eq!(text.parse::<Bandwidth>().expect(text).to_string(), text);
        }
        assert!("uniform".parse::<Jitter>().is_err() && "fast".parse::<Jitter>().is_err());
        assert!("0Mbit".parse::<Bandwidth>().is_err() && "1GB".parse::<Bandwidth>().is_err());
    }

    #[test]
    fn change_keeps_unnamed_conditions() {
        let old =
            Conditions { delay: Duration::from_millis(3), loss: 0.1, ..Conditions::default() };
        let change = Change { delay_ms: Some(1.5), ..Change::default() };
        let new = change.applied_to(old);
        assert_eq!((new.delay, new.loss), (Duration::from_micros(1_500), 0.1));
        for bad in [
            Change { delay_ms: Some(-1.0), ..Change::default() },
            Change { delay_ms: Some(f64::NAN), ..Change::default() },
            Change { loss: Some(0.6), ..Change::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
