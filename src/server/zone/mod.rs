//! A zone's API node behind its HTTP face: submitting writes, applying the tail, the frontier.
//!
//! [`Service`] is what the HTTP layer stands on. Its one real implementation is [`Node`]; tests of
//! the HTTP layer put a double in its place.

mod apply;
pub mod audit;
mod conditions;
mod coordinators;
pub mod database;
mod node;
mod node_state;
mod read;
mod reports;
mod submit;

pub use crate::sequencer::OrderResult;
pub use audit::background::Settings as Audit;
pub use node::{Node, Outside, OwnChain, Settings};

use futures::future::BoxFuture;
use pghc_api::chain::{Link, LinkHash};
use pghc_api::id::{ClusterId, IdempotencyKey, NodeName, WriteId, ZoneName};
use pghc_api::wire::Status;
use tokio::time::Instant;

/// A write as a client asked for it, already validated.
#[derive(Debug, Clone)]
pub struct NewWrite {
    /// Makes a retry the same write.
    pub key: Option<IdempotencyKey>,
    /// One valid JSON value, byte for byte.
    pub payload: Option<bytes::Bytes>,
}

/// Why requests should go to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unready {
    /// The zone has halted, and an operator must act.
    Halted(String),
    /// A condition that passes by itself: the database or the leader is away, the zone is being filled.
    Other(String),
}

impl From<String> for Unready {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// Why a write has no outcome. Sorted by what the caller may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Nothing was handed over: the queue is full.
    #[error("too many writes are waiting")]
    Overloaded,
    /// Nothing was handed over: the zone has halted for this reason and could not apply it.
    #[error("the zone is halted: {0}")]
    Halted(String),
    /// Nothing was handed over: most coordinators do not take this node for one of its zone's, for this reason.
    #[error("this node is refused: {0}")]
    Refused(String),
    /// Nothing was handed over: the node is shutting down.
    #[error("the node is shutting down")]
    Draining,
    /// The deadline passed while no coordinator with a leader was reachable.
    #[error("no leader was found in time")]
    NoLeader,
    /// Nothing was handed over: the deadline passed first, though nothing says that no coordinator leads.
    #[error("the time limit passed first")]
    TimeLimit,
    /// Nothing was handed over: the coordinators' disks are nearly full.
    #[error("the disk of the coordinator that leads is nearly full")]
    NoSpace,
    /// The write may or may not be in the log.
    #[error("no answer came in time")]
    Unknown,
}

/// Why a wait or a read did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The deadline passed; the zone is at this id (0: nothing applied).
    #[error("the zone has applied only up to {frontier}")]
    Behind {
        /// Newest applied id.
        frontier: u64,
    },
    /// These zones had not applied the id when the deadline passed.
    #[error("not yet applied in {0:?}")]
    NotEverywhere(Vec<String>),
    /// No leader confirmed in time.
    #[error("no leader confirmed the read in time")]
    NoLeader,
    /// The deadline passed first, though a leader is known.
    #[error("the time limit passed first")]
    TimeLimit,
    /// The deadline passed while it was not known whether this zone's chain is the one that was ordered.
    #[error("{0}")]
    Unproven(String),
    /// Nothing is shown: this link, or the one before it, was changed in the database by hand.
    #[error("link {0} of this zone does not follow from the link before it")]
    Changed(WriteId),
    /// The zone's PostgreSQL does not answer; the text is for the log, not for clients.
    #[error("the zone's database does not answer: {0}")]
    Database(String),
    /// The zone has halted itself for this reason.
    #[error("the zone is halted: {0}")]
    Halted(String),
}

/// The identity of a node.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its zone.
    pub zone: ZoneName,
    /// Its name: `node_id` of the links it accepts.
    pub node: NodeName,
    /// Base URL under which other zones reach this node; empty when it was not told one.
    pub api_url: String,
    /// Where its process listens, machine and all: no two processes listen at one place at a time.
    pub place: String,
}

/// The fields of a link that the original's clients read.
pub type Recent = (WriteId, LinkHash, NodeName);

/// Requirements of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequirement {
    /// Everything up to this id, at least.
    pub at_least: u64,
    /// Until when it may wait for a server that does.
    pub deadline: Instant,
    /// Whether a replica is as good as the primary: the reader has said what it needs.
    pub may_be_replica: bool,
}

/// A value that was read, and the frontier of the same snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadResult<T> {
    /// The value.
    pub value: T,
    /// Newest id of the same snapshot; at least what was needed.
    pub frontier: u64,
}

/// The calls of the HTTP layer to a node. Every call ends by its deadline.
pub trait Service: Send + Sync + 'static {
    /// The identity of a node.
    fn identity(&self) -> &Identity;

    /// Newest id known to be applied in this zone; 0 while nothing is.
    fn frontier(&self) -> u64;

    /// Newest id that this node ever knew to be applied: the frontier, unless the database went back
    /// and what it lost is not applied again yet.
    fn seen(&self) -> u64;

    /// Newest id up to which this zone is known to hold what was ordered: the frontier, unless it has just
    /// moved and this node does not apply.
    fn known(&self) -> u64;

    /// Whether reads of this zone may be served: its database answers, so that the frontier is known,
    /// and the zone has not halted. Needs no coordinator.
    fn may_read(&self) -> Result<(), ReadError>;

    /// Whether reads should be sent here; else why not. Needs no coordinator.
    fn ready_to_read(&self) -> Result<(), Unready>;

    /// Whether writes should be sent here: the zone applies and a coordinator knows a leader; else why
    /// not.
    fn ready_to_write(&self) -> Result<(), Unready>;

    /// Orders writes; one outcome for each, in order. All or none of them have outcomes.
    fn submit(
        &self,
        writes: Vec<NewWrite>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<OrderResult>, SubmitError>>;

    /// Waits until this zone has applied `id`; answers the frontier then.
    fn wait_applied(&self, id: u64, deadline: Instant) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Waits until every live zone has applied `id`.
    fn wait_everywhere(&self, id: u64, deadline: Instant) -> BoxFuture<'_, Result<(), ReadError>>;

    /// The newest id committed when the call began, confirmed by a majority.
    fn read_index(&self, deadline: Instant) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// One link of this zone; `None` above the frontier.
    fn link(
        &self,
        id: WriteId,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>>;

    /// The newest link of this zone; `None` while its chain is empty.
    fn newest(
        &self,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>>;

    /// Up to `limit` links above `after`, ascending.
    fn page(
        &self,
        after: u64,
        limit: usize,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<Link>>, ReadError>>;

    /// The newest `count` links, newest first; for the original's clients.
    fn recent(
        &self,
        count: usize,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<Recent>>, ReadError>>;

    /// The cluster as this node's coordinator sees it.
    fn status(&self) -> BoxFuture<'_, Status>;
}
