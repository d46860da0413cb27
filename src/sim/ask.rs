//! Requests of clients to an API node: the calls that its HTTP layer makes, in the node's process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pghc_api::id::WriteId;
use pghc_server::zone::{NewWrite, Node, OrderResult, ReadError, ReadRequirement, Service as _};
use tokio::time::Instant;

use super::deployment::Deployment;

/// A request.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A write with its idempotency key, to be answered when the zone has applied it.
    Write {
        /// The key.
        key: String,
        /// The payload, one JSON value.
        payload: Bytes,
    },
    /// Reads a link from a zone whose frontier has reached `at_least`.
    Read {
        /// Its id, above 0.
        id: u64,
        /// The zone must have applied this.
        at_least: u64,
    },
    /// The newest link that is committed anywhere.
    Newest,
}

/// Result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A write is applied.
    Written {
        /// Its id.
        id: u64,
        /// Time until the outcome was known.
        order: Duration,
        /// And from there until it was applied.
        apply: Duration,
    },
    /// A read was answered, at this frontier of the zone.
    Read(u64),
    /// The request was refused and will never be executed.
    Refused(String),
    /// Not now; it may or may not have been done.
    Failed(String),
}

impl Deployment {
    /// Asks a node and waits for its answer; the caller bounds the wait, `until` says for how long
    /// the node shall try.
    pub async fn ask(&self, zone: usize, node: usize, ask: Ask, until: Instant) -> Answer {
        let Some((process, node)) = self.node(zone, node) else {
            return Answer::Failed("broken: connection refused".to_owned());
        };
        // Work that a killed process had begun ends with the process.
        let asked = process.spawn(answer(node, ask, until));
        asked.await.unwrap_or_else(|_| Answer::Failed("broken: connection reset".to_owned()))
    }
}

async fn answer(node: Arc<Node>, ask: Ask, until: Instant) -> Answer {
    match ask {
        Ask::Write { key, payload } => write(&node, &key, payload, until).await,
        Ask::Read { id, at_least } => read(node.link(id_of(id), need(at_least, until)).await),
        Ask::Newest => match node.read_index(until).await {
            Ok(at_least) => read(node.newest(need(at_least, until)).await),
            Err(error) => Answer::Failed(error.to_string()),
        },
    }
}

fn id_of(id: u64) -> WriteId {
    WriteId::try_from(id).unwrap_or(WriteId::FIRST)
}

fn need(at_least: u64, deadline: Instant) -> ReadRequirement {
    ReadRequirement { at_least, deadline, may_be_replica: false }
}

fn read<T>(seen: Result<pghc_server::zone::ReadResult<T>, ReadError>) -> Answer {
    match seen {
        Ok(snapshot) => Answer::Read(snapshot.frontier),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

async fn write(node: &Node, key: &str, payload: Bytes, until: Instant) -> Answer {
    let Ok(key) = key.parse() else {
        return Answer::Refused(format!("{key:?} is no idempotency key"));
    };
    let write = NewWrite { key: Some(key), payload: Some(payload) };
    let started = Instant::now();
    let id = match node.submit(vec![write], until).await.map(|mut all| all.pop()) {
        Ok(Some(OrderResult::Ordered(head))) => head.id.get(),
        Ok(Some(OrderResult::Repeated(id))) => id.get(),
        Ok(Some(OrderResult::KeyReused(id))) => {
            return Answer::Refused(format!("the key is that of write {id}"));
        }
        Ok(None) => return Answer::Failed("no outcome".to_owned()),
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let ordered = Instant::now();
    match node.wait_applied(id, until).await {
        Ok(_) => Answer::Written { id, order: ordered - started, apply: ordered.elapsed() },
        Err(error) => Answer::Failed(error.to_string()),
    }
}
