//! The chain: how a link's hash and digest are computed from the link before it.
//!
//! Two chains run over every write. The **hash** (MD5) is the original PGHC formula, which every
//! client can redo in SQL; it covers no payload and resists no forger. The **digest** (SHA-256)
//! covers everything. A verifier must find both.

use std::fmt;
use std::str::FromStr;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::id::{BadId, ClusterId, NodeName, WriteId};
use crate::limits::NAME_BYTES_MAX;
use crate::time::Micros;

/// Names the digest's encoding; a change of the encoding changes it.
pub const DIGEST_DOMAIN: &str = "pghc/1";

/// The value of a lower-case hex digit; above 15 for any other byte.
const fn nibble(digit: u8) -> u8 {
    const NONE: u8 = 0xf0;
    const VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut value = 0;
        while value < 16 {
            values[b"0123456789abcdef"[value as usize] as usize] = value;
            value += 1;
        }
        values
    };
    VALUES[digit as usize]
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The lower-case hex digits, in ASCII.
            #[must_use]
            pub fn hex(&self) -> [u8; $bytes * 2] {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let mut text = [0; $bytes * 2];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = HEX[usize::from(byte >> 4)];
                    pair[1] = HEX[usize::from(byte & 15)];
                }
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let mut bytes = [0; $bytes];
                // All digits are read before the check: this runs for every link read.
                let mut seen = 0;
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let (high, low) = (nibble(pair[0]), nibble(pair[1]));
                    *byte = high << 4 | low;
                    seen |= high | low;
                }
                if text.len() != $bytes * 2 || seen > 15 {
                    let got = text.chars().take(80).collect();
                    return Err(BadId { what: $what, got, wanted: $wanted });
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

hex_bytes!(
    /// A link's MD5 hash; printed as 32 lower-case hex digits.
    LinkHash, 16, "hash", "32 lower-case hex digits"
);
hex_bytes!(
    /// A SHA-256 value: a link's digest or a payload's; printed as 64 lower-case hex digits.
    Digest, 32, "digest", "64 lower-case hex digits"
);

/// Computes a link's hash: `md5(id || node || previous)`.
///
/// `id` enters as decimal ASCII without padding (PostgreSQL `id::text`), `node` as its bytes,
/// `previous` as the 32 lower-case hex digits of link `id - 1`; `None` for link 1 only.
/// Source: the formula of the original PGHC.
///
/// # Panics
/// If `previous` is missing for any link but the first, or given for the first.
#[must_use]
pub fn link_hash(id: WriteId, node: &NodeName, previous: Option<LinkHash>) -> LinkHash {
    assert_eq!(previous.is_none(), id == WriteId::FIRST, "only link 1 has no link before it");
    let mut text = Text::<HASHED_BYTES_MAX>::default();
    text.decimal(id.get());
    text.push(node.as_str().as_bytes());
    if let Some(previous) = previous {
        text.push(&previous.hex());
    }
    LinkHash(Md5::digest(text.bytes()).into())
}

/// Most bytes that enter a link's hash: the id in decimal, the node's name, a hash in hex.
const HASHED_BYTES_MAX: usize = 20 + NAME_BYTES_MAX + 32;

/// Most bytes that enter a link's digest: seven lengths, and the longest fields.
const DIGESTED_BYTES_MAX: usize =
    7 * 4 + DIGEST_DOMAIN.len() + CLUSTER_BYTES + 8 + NAME_BYTES_MAX + 8 + 32 + 32;

/// A cluster's id in bytes: a UUID with hyphens.
const CLUSTER_BYTES: usize = 36;

/// Bytes put together without an allocation, to be hashed in one go: this runs for every link in
/// every process.
struct Text<const MAX: usize> {
    bytes: [u8; MAX],
    length: usize,
}

impl<const MAX: usize> Default for Text<MAX> {
    fn default() -> Self {
        Self { bytes: [0; MAX], length: 0 }
    }
}

impl<const MAX: usize> Text<MAX> {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
            if number == 0 {
                return self.push(&digits[start..]);
            }
        }
    }

    /// Bytes behind their length as a 4-byte big-endian number.
    fn field(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("fields are bounded far below 4 GiB");
        self.push(&length.to_be_bytes());
        self.push(bytes);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Computes the SHA-256 of a payload's bytes, exactly as they were sent.
#[must_use]
pub fn payload_digest(payload: &[u8]) -> Digest {
    Digest(Sha256::digest(payload).into())
}

/// Computes a link's digest.
///
/// SHA-256 over seven fields, each preceded by its length in bytes as a 4-byte big-endian number:
/// the domain `pghc/1`; the cluster id; the id as 8 bytes big-endian; the node name; the commit
/// time in microseconds as 8 bytes big-endian (two's complement); the payload's SHA-256, or nothing
/// when the link has no payload; the previous link's digest, or nothing for link 1.
///
/// The payload enters through its own SHA-256, so that it can later be erased while the chain still
/// verifies.
///
/// # Panics
/// If `previous` is missing for any link but the first, or given for the first.
#[must_use]
pub fn link_digest(
    cluster: &ClusterId,
    id: WriteId,
    node: &NodeName,
    written_at: Micros,
    payload: Option<Digest>,
    previous: Option<Digest>,
) -> Digest {
    assert_eq!(previous.is_none(), id == WriteId::FIRST, "only link 1 has no link before it");
    let mut text = Text::<DIGESTED_BYTES_MAX>::default();
    text.field(DIGEST_DOMAIN.as_bytes());
    text.field(cluster.as_str().as_bytes());
    text.field(&id.get().to_be_bytes());
    text.field(node.as_str().as_bytes());
    text.field(&written_at.0.to_be_bytes());
    text.field(payload.as_ref().map_or(&[], |digest| &digest.0));
    text.field(previous.as_ref().map_or(&[], |digest| &digest.0));
    Digest(Sha256::digest(text.bytes()).into())
}

/// One row of the chain as it stands in `pghc.chain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Position in the total order.
    pub id: WriteId,
    /// API node that accepted the write.
    pub node: NodeName,
    /// MD5 chain value.
    pub hash: LinkHash,
    /// SHA-256 chain value.
    pub digest: Digest,
    /// Commit time: the same in every zone, never going back.
    pub written_at: Micros,
    /// The payload's bytes as they were sent: one JSON value, or none.
    pub payload: Option<Box<str>>,
}

/// The newest link's chain values: all that is needed to compute the next link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Id of the newest link.
    pub id: WriteId,
    /// Its hash.
    pub hash: LinkHash,
    /// Its digest.
    pub digest: Digest,
    /// Its commit time.
    pub written_at: Micros,
}

impl Head {
    /// Computes the head after one more link; `head` is `None` before link 1.
    ///
    /// `written_at` must not be before the head's; callers take the later of both.
    #[must_use]
    pub fn extend(
        head: Option<&Self>,
        cluster: &ClusterId,
        node: &NodeName,
        written_at: Micros,
        payload: Option<Digest>,
    ) -> Self {
        let id = head.map_or(WriteId::FIRST, |head| head.id.next());
        Self {
            id,
            hash: link_hash(id, node, head.map(|head| head.hash)),
            digest: link_digest(cluster, id, node, written_at, payload, head.map(|h| h.digest)),
            written_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Head, LinkHash, link_hash, payload_digest};
    use crate::id::{ClusterId, NodeName, WriteId};
    use crate::time::Micros;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a plain name")
    }

    /// The expected values were printed by PostgreSQL 15:
    /// `select md5('1' || 'pghc')`, `select md5('2' || 'pghc' || md5('1' || 'pghc'))`.
    #[test]
    fn hashes_are_those_of_postgresql() {
        let first = link_hash(WriteId::FIRST, &node("pghc"), None);
        assert_eq!(first.to_string(), "4d3bca022be8a6521c2845021debfe9a");
        let second = link_hash(WriteId::FIRST.next(), &node("pghc"), Some(first));
        assert_eq!(second.to_string(), "d0e85b74e4d5a1a8abd031df514bd1ca");
        assert_eq!(second.to_string().parse::<LinkHash>(), Ok(second));
    }

    /// The expected value was printed by PostgreSQL 15 from `sha256()`, `int4send` and `int8send`
    /// over the seven fields; `sql/` holds the same formula as `pghc.link_digest`.
    #[test]
    fn the_digest_covers_every_field() {
        let cluster: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
        let other: ClusterId = "00000000-0000-4000-8000-000000000002".parse().expect("a UUID");
        let payload = Some(payload_digest(br#"{"a":1}"#));
        let at = Micros(1_700_000_000_000_000);
        let link = Head::extend(None, &cluster, &node("pghc"), at, payload);
        assert_eq!(
            link.digest.to_string(),
            "be4e9ece63fd79a04a470a91e3c8e64cd12715be62a68a90dac132180a9681a4"
        );
        let changed = [
            Head::extend(None, &other, &node("pghc"), at, payload),
            Head::extend(None, &cluster, &node("pghd"), at, payload),
            Head::extend(None, &cluster, &node("pghc"), Micros(at.0 + 1), payload),
            Head::extend(None, &cluster, &node("pghc"), at, None),
            Head::extend(Some(&link), &cluster, &node("pghc"), at, payload),
        ];
        for other in changed {
            assert_ne!(other.digest, link.digest);
        }
    }
}
