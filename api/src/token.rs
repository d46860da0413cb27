//! The causality token: one short text that names a place in one cluster's chain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::chain::{Digest, Head};
use crate::id::{BadId, ClusterId, WriteId};

/// Proof that its holder has seen everything up to `id`: `p1-<cluster>-<id>-<digest>`.
///
/// `<cluster>` is the first 8 hex digits of the cluster id, `<digest>` the first 16 bytes of link
/// `id`'s SHA-256 digest in lower-case hex. The digest covers payload, commit time and all links
/// before, so a zone whose link `id` has another digest is a fork, and the token's holder is the
/// witness.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    cluster: [u8; 8],
    id: WriteId,
    digest: [u8; DIGEST_BYTES],
}

/// Bytes of a link's digest that its token holds.
const DIGEST_BYTES: usize = 16;

impl Token {
    /// The token of a link.
    #[must_use]
    pub fn new(cluster: &ClusterId, id: WriteId, digest: Digest) -> Self {
        Self { cluster: prefix(cluster), id, digest: beginning(digest) }
    }

    /// The token of a chain's head.
    #[must_use]
    pub fn of(cluster: &ClusterId, head: &Head) -> Self {
        Self::new(cluster, head.id, head.digest)
    }

    /// The id it names.
    #[must_use]
    pub fn id(&self) -> WriteId {
        self.id
    }

    /// Whether it was issued by this cluster.
    #[must_use]
    pub fn is_from(&self, cluster: &ClusterId) -> bool {
        self.cluster == prefix(cluster)
    }

    /// Whether the link it names had this digest when it was issued.
    #[must_use]
    pub fn matches(&self, digest: Digest) -> bool {
        self.digest == beginning(digest)
    }
}

fn prefix(cluster: &ClusterId) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&cluster.as_str().as_bytes()[..8]);
    bytes
}

fn beginning(digest: Digest) -> [u8; DIGEST_BYTES] {
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(&digest.0[..DIGEST_BYTES]);
    bytes
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p1-{}-{}-", String::from_utf8_lossy(&self.cluster), self.id)?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Token {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let error = || BadId {
            what: "token",
            got: text.chars().take(80).collect(),
            wanted: "a token as a write or read answered it, p1-<cluster>-<id>-<digest>",
        };
        let parts: Vec<&str> = text.split('-').collect();
        let &["p1", cluster, id, digest] = parts.as_slice() else { return Err(error()) };
        let cluster = <[u8; 8]>::try_from(cluster.as_bytes()).map_err(|_| error())?;
        if !cluster.iter().all(u8::is_ascii_hexdigit) {
            return Err(error());
        }
        let full = format!("{digest}{:0>1$}", "", 2 * (size_of::<Digest>() - DIGEST_BYTES));
        let full: Digest = full.parse().map_err(|_| error())?;
        Ok(Self { cluster, id: id.parse().map_err(|_| error())?, digest: beginning(full) })
    }
}

impl TryFrom<String> for Token {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Token;
    use crate::chain::Digest;
    use crate::id::{ClusterId, WriteId};

    const HEX: &str = "abababababababababababababababab";

    #[test]
    fn token_round_trips_through_text() {
        let cluster: ClusterId = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let other: ClusterId = "0290a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let token = Token::new(&cluster, WriteId::MAX, Digest([0xab; 32]));
        assert_eq!(token.to_string(), format!("p1-0190a1b2-9223372036854775807-{HEX}"));
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(token.is_from(&cluster) && !token.is_from(&other));
    }

    #[test]
    fn a_token_matches_its_digest_alone() {
        let cluster: ClusterId = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let token = Token::new(&cluster, WriteId::FIRST, Digest([0xab; 32]));
        assert!(token.matches(Digest([0xab; 32])));
        for changed in 0..16 {
            let mut digest = Digest([0xab; 32]);
            digest.0[changed] ^= 1;
            assert!(!token.matches(digest), "byte {changed}");
        }
    }

    #[test]
    fn anything_else_is_no_token() {
        let upper = HEX.to_uppercase();
        for bad in [
            String::new(),
            "7".to_owned(),
            format!("p1-0190a1b2-0-{HEX}"),
            format!("p2-0190a1b2-1-{HEX}"),
            format!("p1-0190a1b2-1-{}", &HEX[..16]),
            format!("p1-0190a1b2-1-{}", &HEX[..31]),
            format!("p1-0190a1b2-1-{HEX}ab"),
            format!("p1-0190a1b2-1-{upper}"),
            format!("p1-0190a1b2-1-{HEX}-"),
            format!("p1-xxxxxxxx-1-{HEX}"),
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }
}
