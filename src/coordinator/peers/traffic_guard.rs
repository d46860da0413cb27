//! The gate between openraft and the other coordinators. It stays closed until this coordinator was
//! admitted (see `admission`): a directory that has forgotten something must neither vote nor
//! acknowledge. And it lets through only messages between the incarnations they are meant for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Status};

use super::directory::PeerDirectory;

/// Who sends: id and incarnation.
const FROM: &str = "pghc-from";
/// The incarnation that is meant.
const TO: &str = "pghc-to";

/// Clones are the same gate.
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

    /// A message to the member of `incarnation`.
    pub(crate) fn address<T>(&self, message: T, incarnation: &str) -> Request<T> {
        let mut request = Request::new(message);
        let from = format!("{} {}", self.id, self.incarnation);
        for (key, value) in [(FROM, from.as_str()), (TO, incarnation)] {
            if let Ok(value) = AsciiMetadataValue::try_from(value) {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    /// The id of the coordinator that sent a message; `None` when it does not say.
    pub(crate) fn sender(metadata: &MetadataMap) -> Option<u64> {
        let from = metadata.get(FROM)?.to_str().ok()?;
        from.split_once(' ')?.0.parse().ok()
    }

    /// Checks a message that came in.
    ///
    /// # Errors
    /// The refusal, while the gate is closed or if the message is from or to another incarnation
    /// than the membership names.
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
            tracing::warn!(id, incarnation, known, "refused another data directory's message");
            return Err(Status::failed_precondition(format!(
                "coordinator {id} is a member with another data directory"
            )));
        }
        Ok(())
    }
}
