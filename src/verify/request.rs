//! The request for a verification, and why one may make no sense.

use std::time::Duration;

use pghc_api::id::ClusterId;
use pghc_api::token::Token;

use super::source::Place;

/// Request for a verification.
#[derive(Debug, Clone)]
pub struct Request {
    /// The sources, each with its given name. A source without a name is named after its zone or
    /// file.
    pub sources: Vec<(Option<String>, Place)>,
    /// The cluster that the sources must be of.
    pub cluster: Option<ClusterId>,
    /// Which links.
    pub range: Range,
    /// Tokens that clients received: each is a witness of the chain up to its link.
    pub tokens: Vec<Token>,
    /// Base URLs of coordinators, `http://host:port`. Each must answer; together they are a witness
    /// of the whole chain, as confirmed by a majority of their group. Empty: no coordinator is
    /// used.
    pub coordinators: Vec<String>,
    /// Longest wait for a zone that is behind the others.
    pub wait: Duration,
}

/// Which links to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// This number of newest links of the source that is furthest.
    Last(u64),
    /// From an id to another, both included; without the second, to the end of each source.
    Between(u64, Option<u64>),
}

/// The request makes no sense; nothing was checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A file is no export, so it says nothing about any chain.
    #[error("{file} {what}; nothing was checked")]
    NoExport {
        /// Its name.
        file: String,
        /// The actual content, and advice.
        what: String,
    },
    /// Two sources do not belong together.
    #[error(
        "{one} is of cluster {one_id}, but {other} of cluster {other_id}; nothing was checked, verify them separately"
    )]
    OtherCluster {
        /// A source, or what the caller gave.
        one: String,
        /// Its cluster.
        one_id: ClusterId,
        /// Another source.
        other: String,
        /// Its cluster.
        other_id: ClusterId,
    },
    /// A zone cannot be compared with itself.
    #[error(
        "{one} and {other} are both zone {zone}; a zone is no witness for itself, give each zone once"
    )]
    SameZone {
        /// A source.
        one: String,
        /// Another source.
        other: String,
        /// The zone both say they are.
        zone: String,
    },
    /// A token is of another cluster.
    #[error("token {0} was issued by another cluster than the one to verify; nothing was checked")]
    ForeignToken(Token),
}
