//! Identifiers. Each is its own type, checked when it is made, so that an id is never an index and
//! a node is never a zone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX};

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {got:?} is not allowed: {wanted}")]
pub struct BadId {
    /// Which identifier was being read, for example `node name`.
    pub what: &'static str,
    /// The rejected text, shortened to 80 characters.
    pub got: String,
    /// The accepted form.
    pub wanted: &'static str,
}

fn bad(what: &'static str, got: &str, wanted: &'static str) -> BadId {
    BadId { what, got: got.chars().take(80).collect(), wanted }
}

/// Position of a write in the total order: 1, 2, 3, … without a gap. Fits a PostgreSQL bigint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct WriteId(u64);

impl WriteId {
    /// The id of the first link.
    pub const FIRST: Self = Self(1);
    /// The largest id: PostgreSQL's bigint ends there.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// The id as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The id as PostgreSQL's bigint.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// The id that follows.
    ///
    /// # Panics
    /// After [`WriteId::MAX`]; at a million writes a second that takes 292,000 years.
    #[must_use]
    pub fn next(self) -> Self {
        assert!(self < Self::MAX, "ids are exhausted");
        Self(self.0 + 1)
    }
}

impl TryFrom<u64> for WriteId {
    type Error = BadId;
    fn try_from(id: u64) -> Result<Self, BadId> {
        if id == 0 || id > Self::MAX.0 {
            return Err(bad("id", &id.to_string(), "a number from 1 to 2^63-1"));
        }
        Ok(Self(id))
    }
}

impl From<WriteId> for u64 {
    fn from(id: WriteId) -> Self {
        id.0
    }
}

impl FromStr for WriteId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let wanted = "a number from 1 to 2^63-1";
        // Each id has exactly one text: a leading zero would give an id two tokens.
        let is_plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        if text.is_empty() || !is_plain {
            return Err(bad("id", text, wanted));
        }
        text.parse::<u64>().map_err(|_| bad("id", text, wanted))?.try_into()
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const NAME_WANTED: &str = "1 to 64 characters from a-z A-Z 0-9 - _ . that start with a letter";

fn check_name(what: &'static str, text: &str) -> Result<(), BadId> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if text.len() > NAME_BYTES_MAX || !starts || !text.bytes().all(allowed) {
        return Err(bad(what, text, NAME_WANTED));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                check_name($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Name of the API node that accepted a write: the link's `node_id`.
    ///
    /// The first character is a letter because the hash appends the name to the decimal id: with a
    /// leading digit, link 1 of `1zone` and link 11 of `zone` would hash alike.
    NodeName,
    "node name"
);
name!(
    /// Name of a zone (a data centre).
    ZoneName,
    "zone name"
);

/// Identity of one cluster: a UUID in its 36-character lower-case form. The id is part of every
/// digest, token, log directory and zone database, so data of another cluster is never accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(std::sync::Arc<str>);

impl ClusterId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let dash_at = |index: usize| matches!(index, 8 | 13 | 18 | 23);
        let fits = text.len() == 36
            && text.bytes().enumerate().all(|(index, byte)| {
                if dash_at(index) {
                    byte == b'-'
                } else {
                    byte.is_ascii_digit() || matches!(byte, b'a'..=b'f')
                }
            });
        if !fits {
            return Err(bad("cluster id", text, "a lower-case UUID of 36 characters"));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ClusterId {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A client's name for one write, so that a retry is the same write: 1 to 128 visible ASCII
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of line `line` (from 0) of a bulk request that was sent under this key.
    ///
    /// The result is longer than a client's key may be and holds a space, so it equals no client's
    /// key.
    #[must_use]
    pub fn line(&self, line: usize) -> Self {
        Self(format!("{} {line}", self.0))
    }
}

impl FromStr for IdempotencyKey {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        if text.is_empty()
            || text.len() > KEY_BYTES_MAX
            || !text.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(bad("Idempotency-Key", text, "1 to 128 visible ASCII characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, IdempotencyKey, NodeName, WriteId};

    #[test]
    fn node_name_is_letter_first_with_1_to_64_plain_characters() {
        for good in ["a", "api-1.eu_west", &"x".repeat(64)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a b", "ä", "a\u{0}", &"x".repeat(65)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_a_positive_bigint() {
        assert_eq!("9223372036854775807".parse::<WriteId>(), Ok(WriteId::MAX));
        for bad in ["0", "-1", "+1", "9223372036854775808", "1.0", "", " 1"] {
            assert!(bad.parse::<WriteId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_cluster_id_is_a_lower_case_uuid() {
        assert!("0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse::<ClusterId>().is_ok());
        assert!("0190A1B2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse::<ClusterId>().is_err());
        assert!("0190a1b2c3d47e5f8091a2b3c4d5e6f7".parse::<ClusterId>().is_err());
    }

    #[test]
    fn the_key_of_a_line_is_no_key_a_client_can_send() {
        let key: IdempotencyKey = "order-7".parse().expect("a plain key");
        assert_eq!(key.line(3).as_str(), "order-7 3");
        assert!("order-7 3".parse::<IdempotencyKey>().is_err());
    }
}
