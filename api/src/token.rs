//! The causality token: one short text that names a place in one cluster's chain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::chain::{Head, LinkHash};
use crate::id::{BadId, ClusterId, WriteId};

/// Proof that its holder has seen everything up to `id`: `p1-<cluster>-<id>-<hash>`, where
/// `<cluster>` is the first 8 hex digits of the cluster id and `<hash>` the first 16 hex digits of
/// link `id`'s hash. A zone whose link `id` has another hash is a fork, and its reader is the
/// witness.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    cluster: [u8; 8],
    id: WriteId,
    hash: [u8; 8],
}

impl Token {
    /// The token of a link.
    #[must_use]
    pub fn new(cluster: &ClusterId, id: WriteId, hash: LinkHash) -> Self {
        Self { cluster: prefix(cluster), id, hash: first_8(hash) }
    }

    /// The token of a chain's head.
    #[must_use]
    pub fn of(cluster: &ClusterId, head: &Head) -> Self {
        Self::new(cluster, head.id, head.hash)
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

    /// Whether the link it names had this hash when it was issued.
    #[must_use]
    pub fn matches(&self, hash: LinkHash) -> bool {
        self.hash == first_8(hash)
    }
}

fn prefix(cluster: &ClusterId) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&cluster.as_str().as_bytes()[..8]);
    bytes
}

fn first_8(hash: LinkHash) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.0[..8]);
    bytes
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p1-{}-{}-", String::from_utf8_lossy(&self.cluster), self.id)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Token {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let error = || BadId {
            what: "token",
            got: text.chars().take(80).collect(),
            wanted: "a token as a write or read answered it, p1-<cluster>-<id>-<hash>",
        };
        let parts: Vec<&str> = text.split('-').collect();
        let &["p1", cluster, id, hash] = parts.as_slice() else { return Err(error()) };
        let cluster = <[u8; 8]>::try_from(cluster.as_bytes()).map_err(|_| error())?;
        if !cluster.iter().all(u8::is_ascii_hexdigit) {
            return Err(error());
        }
        let full: LinkHash = format!("{hash}0000000000000000").parse().map_err(|_| error())?;
        Ok(Self { cluster, id: id.parse().map_err(|_| error())?, hash: first_8(full) })
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
    use crate::chain::LinkHash;
    use crate::id::{ClusterId, WriteId};

    #[test]
    fn a_token_survives_its_text_and_knows_its_cluster_and_link() {
        let cluster: ClusterId = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let other: ClusterId = "0290a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
        let token = Token::new(&cluster, WriteId::MAX, LinkHash([0xab; 16]));
        assert_eq!(token.to_string(), "p1-0190a1b2-9223372036854775807-abababababababab");
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(token.is_from(&cluster) && !token.is_from(&other));
        assert!(token.matches(LinkHash([0xab; 16])) && !token.matches(LinkHash([0; 16])));
    }

    #[test]
    fn anything_else_is_no_token() {
        for bad in [
            "",
            "7",
            "p1-0190a1b2-0-abababababababab",
            "p2-0190a1b2-1-abababababababab",
            "p1-0190a1b2-1-abab",
            "p1-0190a1b2-1-abababababababab-",
            "p1-xxxxxxxx-1-abababababababab",
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }
}
