//! Guards Raft traffic between openraft and the peers.
//!
//! The guard stays closed until admission (see `admission`): a directory that lost data must
//! neither vote nor acknowledge. Afterwards it passes only messages between the incarnations that
//! the membership names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};

use super::directory::PeerDirectory;

/// Sender: id and incarnation.
const FROM: &str = "pghc-from";
/// Incarnation of the addressee.
const TO: &str = "pghc-to";

/// Clones share the state.
#[derive(Clone)]
pub(crate) struct RaftTrafficGuard {
    id: u64,
    incarnation: Arc<str>,
    is_admitted: Arc<AtomicBool>,
    peers: PeerDirectory,
}

impl RaftTrafficGuard {
    pub(crate) fn new(id: u64, incarnation: &str, peers: PeerDirectory) -> Self {
        Self { id, incarnation: incarnation.into(), is_admitted: Arc::default(), peers }
    }

    pub(crate) fn admit(&self) {
        self.is_admitted.store(true, Ordering::Release);
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.is_admitted.load(Ordering::Acquire)
    }

    /// Stamps a message with the sender and the addressee's incarnation.
    pub(crate) fn stamp<T>(&self, message: T, incarnation: &str) -> Request<T> {
        let mut request = Request::new(message);
        let from = format!("{} {}", self.id, self.incarnation);
        for (key, value) in [(FROM, from.as_str()), (TO, incarnation)] {
            if let Ok(value) = AsciiMetadataValue::try_from(value) {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    /// Returns the sender's coordinator id; `None` if the message carries none.
    pub(crate) fn sender(metadata: &MetadataMap) -> Option<u64> {
        let from = metadata.get(FROM)?.to_str().ok()?;
        from.split_once(' ')?.0.parse().ok()
    }

    /// Checks an incoming message.
    ///
    /// # Errors
    /// If the guard is closed, or if sender or addressee is another incarnation than the membership
    /// names.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if !self.is_admitted() {
            return Err(Status::unavailable("this coordinator is not admitted yet"));
        }
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let to = text(TO).unwrap_or_default();
        if !to.is_empty() && *to != *self.incarnation {
            return Err(Status::failed_precondition(format!(
                "the message is for another data directory of coordinator {}",
                self.id
            )));
        }
        let Some((id, incarnation)) = text(FROM).and_then(|from| from.split_once(' ')) else {
            return Ok(());
        };
        let member = id.parse().ok().and_then(|id| self.peers.member(id));
        let known = member.map(|member| member.incarnation).unwrap_or_default();
        if !known.is_empty() && known != incarnation {
            tracing::warn!(id, incarnation, known, "message of another incarnation rejected");
            return Err(Status::failed_precondition(format!(
                "coordinator {id} is a member with another data directory"
            )));
        }
        Ok(())
    }
}
