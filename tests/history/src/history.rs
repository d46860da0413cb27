//! Record of a run: operations of clients, snapshots of databases, and the final chains.
//!
//! All times of one history are nanoseconds of one monotonic clock; only their order matters, and
//! two equal times are taken as concurrent. Zones are numbers that the recorder chose.

use std::collections::BTreeMap;
use std::fmt;

use pghc_api::chain::{Digest, LinkHash, payload_digest};
use pghc_api::id::NodeName;
use pghc_api::time::Micros;
use serde::{Deserialize, Serialize};

/// Everything seen during one run, but the final chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Requests with their answers. Requests of one session are in order; sessions may be
    /// interleaved. At most 2^32-1.
    pub operations: Vec<Operation>,
    /// Direct reads of the zones' databases, each in one snapshot.
    pub snapshots: Vec<Snapshot>,
    /// When a zone's database was replaced by an older one.
    pub resets: Vec<Reset>,
    /// How often each class of fault really happened, by the recorder's own evidence.
    pub faults: BTreeMap<String, u64>,
}

/// One request of one client. Every attempt is its own operation: a retry repeats key and payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The client.
    pub client: u32,
    /// A chain of requests of that client, one after the other, that hands its token on.
    pub session: u32,
    /// Zone of the API node that received the request.
    pub zone: u16,
    /// When the request began to be sent.
    pub started: u64,
    /// When the answer was there in full, or the client gave up.
    pub ended: u64,
    /// The request and its answer.
    #[serde(flatten)]
    pub what: What,
}

/// A write or a read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A write of one link; a line of a bulk request is a write of its own.
    Write {
        /// Number of the `Idempotency-Key`, the same for every attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<u64>,
        /// Fingerprint of the payload's bytes, unlike that of every other write; `None` for a write
        /// without payload, which can only be counted, not recognised.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<Fingerprint>,
        /// The answer.
        outcome: OrderResult,
    },
    /// A read of the chain.
    Read {
        /// Id of the token that was sent along.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_least: Option<u64>,
        /// Whether the read was linearizable.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        linearizable: bool,
        /// The answer.
        outcome: ReadOutcome,
    },
}

/// Result of a write, from its client's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderResult {
    /// 2xx: committed under this id, with this digest.
    Acknowledged {
        /// The link's id.
        id: u64,
        /// The link's digest.
        digest: Digest,
        /// Answered as known already (200 instead of 201).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        repeated: bool,
        /// Whether the answer also promises that the write is applied in that zone (`wait=applied`
        /// or more).
        applied: bool,
    },
    /// An error that names the id: committed, but not applied in time.
    Committed {
        /// The link's id.
        id: u64,
    },
    /// 4xx: this attempt is not in the chain and never will be.
    Refused,
    /// Anything else, no answer included: it may be in the chain, or may still come.
    Unknown,
}

/// Result of a read, from its client's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOutcome {
    /// The newest link that the answer shows.
    Seen {
        /// Its id; 0 if the chain was empty.
        frontier: u64,
        /// Its digest, if the answer held it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// 409 `chain_fork`: the zone says that the token is from another chain.
    Fork,
    /// Any other error, or no answer. A read that fails breaks no promise.
    Failed,
}

/// Content of one snapshot of a zone's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The zone.
    pub zone: u16,
    /// Whether it was read from a replica of the zone's database, which may be behind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replica: bool,
    /// Before the snapshot was taken.
    pub started: u64,
    /// After it was taken.
    pub ended: u64,
    /// Largest id; 0 if there was no link.
    pub max_id: u64,
    /// Number of links.
    pub count: u64,
    /// Digest of the largest id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// A period in which a zone's database was lost, restored, reseeded, replaced by a replica, or
/// tampered with on purpose and healed. Links applied before may be missing for a while after;
/// snapshots within the period are not judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// The zone.
    pub zone: u16,
    /// The old database may be lost from here on.
    pub started: u64,
    /// Here the new one was the only one.
    pub ended: u64,
}

/// A zone's chain at the end of the run, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The zone.
    pub zone: u16,
    /// Its links.
    pub links: Vec<Link>,
}

/// A link in a zone's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The id.
    pub id: u64,
    /// API node that accepted it.
    pub node: NodeName,
    /// Commit time.
    pub written_at: Micros,
    /// SHA-256 of the payload's bytes; `None` without payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Digest>,
    /// MD5 chain value.
    pub hash: LinkHash,
    /// SHA-256 chain value.
    pub digest: Digest,
}

impl Link {
    /// Fingerprint of the payload.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.payload.map(Fingerprint::from)
    }
}

/// The first 16 bytes of a payload's SHA-256; printed as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "LinkHash", into = "LinkHash")]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of a payload's bytes as they were sent.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        payload_digest(payload).into()
    }

    /// Its first 8 bytes as a number: as good as random, so it serves as a hash.
    pub(crate) fn short(self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(bytes)
    }
}

impl From<Digest> for Fingerprint {
    fn from(digest: Digest) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.0[..16]);
        Self(bytes)
    }
}

/// Both are 16 bytes in the same text form.
impl From<LinkHash> for Fingerprint {
    fn from(hex: LinkHash) -> Self {
        Self(hex.0)
    }
}

impl From<Fingerprint> for LinkHash {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LinkHash(self.0).fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Operation {
    /// The id that the answer names as the operation's own.
    pub(crate) fn answered_id(&self) -> Option<u64> {
        match self.what {
            What::Write {
                outcome: OrderResult::Acknowledged { id, .. } | OrderResult::Committed { id },
                ..
            } => Some(id),
            _ => None,
        }
    }

    /// The newest id that the answer proves to be committed.
    pub(crate) fn proves(&self) -> Option<u64> {
        match self.what {
            What::Read { outcome: ReadOutcome::Seen { frontier, .. }, .. } => Some(frontier),
            _ => self.answered_id(),
        }
    }
}
