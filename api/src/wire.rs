//! Bodies of the HTTP API, version 1 and the original's.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::chain::{Digest, Link, LinkHash};
use crate::id::ClusterId;
use crate::time::Micros;
use crate::token::Token;

/// Body of `POST /v1/chain`, and one line of its NDJSON form.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteRequest {
    /// Any JSON value, kept byte for byte. Absent and `null` both mean: no payload.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub payload: Option<Box<RawValue>>,
}

/// One link, as a write or a read answers it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LinkBody {
    /// Position in the total order, from 1 without a gap.
    pub id: u64,
    /// API node that accepted the write.
    pub node_id: String,
    /// MD5 chain value, 32 lower-case hex digits.
    #[schema(value_type = String)]
    pub hash: LinkHash,
    /// SHA-256 chain value, 64 lower-case hex digits.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Commit time, RFC 3339 with microseconds; the same in every zone.
    #[schema(value_type = String)]
    pub written_at: Micros,
    /// Causality token: pass it as `at_least` to read at or after this link anywhere.
    #[schema(value_type = String)]
    pub token: Token,
    /// The payload as it was sent; only in reads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Object>)]
    pub payload: Option<Box<RawValue>>,
}

impl LinkBody {
    /// The body of a link.
    ///
    /// # Errors
    /// If the stored payload is not JSON, which PostgreSQL's type makes impossible.
    pub fn new(cluster: &ClusterId, link: Link) -> Result<Self, serde_json::Error> {
        let payload = link.payload.map(|text| RawValue::from_string(text.into())).transpose()?;
        Ok(Self {
            id: link.id.get(),
            node_id: link.node.to_string(),
            hash: link.hash,
            digest: link.digest,
            written_at: link.written_at,
            token: Token::new(cluster, link.id, link.digest),
            payload,
        })
    }
}

/// A page of `GET /v1/chain`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page {
    /// Links after `after`, ascending.
    pub links: Vec<LinkBody>,
    /// Pass it as `after` for the next page; absent when the page reached the frontier.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_after: Option<u64>,
    /// Newest id this zone had applied when the page was read.
    pub frontier: u64,
}

/// Answer of `GET /v1/chain/head`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HeadBody {
    /// The newest link of this zone; absent while the chain is empty.
    pub head: Option<LinkBody>,
    /// Its id, 0 while the chain is empty.
    pub frontier: u64,
}

/// Answer of the original `POST /chain`, and a row of its `GET /chain/recent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OriginalLink {
    /// The link's id.
    pub zk_id: u64,
    /// MD5 chain value.
    #[schema(value_type = String)]
    pub hash: LinkHash,
    /// API node that accepted the write.
    pub node_id: String,
}

/// How a zone's applier is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ZoneState {
    /// Has applied what was committed a second or so ago.
    Live,
    /// Is fed from the log and catches up.
    Lagging,
    /// Was away for so long that the log no longer reaches back to its frontier: it must be filled
    /// from another zone.
    Detached,
    /// Is being filled from another zone; `message` says how far that is.
    Reseeding,
    /// Has stopped itself; its API nodes say why.
    Halted,
    /// Tries and does not get on: its database does not answer, or no coordinator can feed it.
    Stalled,
    /// Nothing heard for some seconds.
    Silent,
}

/// One zone in a [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ZoneStatus {
    /// Name of the zone.
    pub zone: String,
    /// Whether it is alive.
    pub state: ZoneState,
    /// Newest id its database has applied.
    pub frontier: u64,
    /// Committed ids it has not applied yet.
    pub lag_ids: u64,
    /// API node that applies there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub applier: Option<String>,
    /// Why it halted or stalled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

/// One coordinator in a [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoordinatorStatus {
    /// Raft id.
    pub coordinator_id: u64,
    /// Zone it stands in.
    pub zone: String,
    /// Whether it votes.
    pub voter: bool,
}

/// Whether the answering node can read another zone, by its newest attempt. A zone that no log reaches is filled by
/// such reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ZoneReading {
    /// Name of the other zone.
    pub zone: String,
    /// URL that its applier advertises.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// Whether a node of that zone answers there.
    pub reads: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
}

/// Answer of `GET /v1/status`: the cluster as this node's coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Zone of the answering node.
    pub zone: String,
    /// Name of the answering node.
    pub node_id: String,
    /// Whether the answering node applies for its zone.
    pub is_applier: bool,
    /// Newest id applied in this zone.
    pub frontier: u64,
    /// Newest committed id that the coordinator knows.
    pub head: u64,
    /// Raft id of the leader, when one is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leader: Option<u64>,
    /// Zone of the leader.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leader_zone: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Coordinators of the group.
    pub coordinators: Vec<CoordinatorStatus>,
    /// Zones and their frontiers.
    pub zones: Vec<ZoneStatus>,
    /// Why this zone halted, when it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub halted: Option<String>,
    /// Which other zones the answering node can read; without those it has not tried yet.
    #[serde(default)]
    pub readings: Vec<ZoneReading>,
    /// Milliseconds since a coordinator last told this node of the cluster: so old is what it says of
    /// coordinators and other zones. Absent: none has told since the node started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heard_ms: Option<u64>,
}
