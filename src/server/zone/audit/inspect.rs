//! An audit by hand: a person asks whether a zone's chain is sound, and a finding fences the zone at once,
//! whichever of its nodes run.
//!
//! It is the audit of a node without the node: the same recomputation, the same coordinators as
//! witnesses, the same evidence. Every node of the zone sees the evidence within about a second.

use std::sync::Arc;

use pghc_api::chain::Head;
use pghc_api::id::{ClusterId, WriteId};
use pghc_postgres::{Commit, Dsn, Evidence, Face, ReadError, Reader};
use pghc_runtime::rpc::Tcp;
use pghc_runtime::task::Tasks;

use super::background::{Auditor, Examined};
use super::walk::Rate;
use super::witness::Witness;
use crate::zone::Identity;
use crate::zone::apply::peer;
use crate::zone::coordinators::Coordinators;
use crate::zone::database::{Database, Postgres};
use crate::zone::node_state::NodeState;
use crate::zone::reports::views::Views;

/// Name under which evidence of an audit by hand is kept.
const NODE: &str = "pghc-zone-audit";

/// Result of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspected {
    /// Every link from the one asked for on was recomputed, and the coordinators vouch for the last.
    Sound(Option<Head>),
    /// Something is wrong, and this evidence lies against the zone.
    Fenced(Evidence),
    /// Something is wrong, as these words say, and the evidence could not be kept.
    Unfenced(Evidence),
    /// The chain is sound in itself; that it was ordered was not confirmed, for this reason.
    Unproved(String),
    /// The database was replaced meanwhile.
    Moved,
}

/// Why there was no audit. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The database does not answer.
    #[error(transparent)]
    Database(#[from] ReadError),
    /// It holds no chain of a zone.
    #[error("there is no chain in this database")]
    NoChain,
    /// It begins above the frontier.
    #[error("link {from} is above the frontier, which stands at {frontier}")]
    Above {
        /// Where it should begin.
        from: WriteId,
        /// Newest applied id.
        frontier: u64,
    },
    /// A coordinator's URL is none.
    #[error(transparent)]
    Url(#[from] tonic::transport::Error),
}

/// Audits the chain in `database` from link `from` on; `coordinators` are the URLs of those that may
/// vouch for it.
///
/// # Errors
/// See [`InspectError`].
pub async fn inspect(
    dsn: &Dsn,
    coordinators: &[String],
    from: WriteId,
    tasks: &Tasks,
) -> Result<Inspected, InspectError> {
    let database: Arc<dyn Database> =
        Arc::new(Postgres::new(dsn.clone(), Commit::OnDisk, 1, tasks));
    let face = database.face().await?;
    let identity = identity(&face).ok_or(InspectError::NoChain)?;
    if let Some(evidence) = face.evidence {
        return Ok(Inspected::Fenced(evidence));
    }
    if from > WriteId::FIRST && from.get() > face.id {
        return Err(InspectError::Above { from, frontier: face.id });
    }
    let coordinators = Coordinators::new(&Tcp, &identity.cluster, coordinators)?;
    let views = Arc::new(Views::ask(&coordinators).await);
    let witness = Witness { identity: identity.clone(), coordinators, views, http: peer::client() };
    let auditor = Auditor {
        identity,
        dsn: dsn.clone(),
        reader: Reader::new(dsn, 1),
        database,
        node_state: Arc::new(NodeState::new()),
        witness,
        tasks: tasks.clone(),
    };
    // The end first: where it is another one, the zone is fenced before anything is recomputed.
    let found = match auditor.compare().await? {
        Some(found) => found,
        None => match auditor.examine(from, Rate::UNBOUNDED).await? {
            Examined::Bad(found) => found,
            Examined::Sound(head) => return Ok(Inspected::Sound(head)),
            Examined::Unproved(why) => return Ok(Inspected::Unproved(why)),
            Examined::Moved => return Ok(Inspected::Moved),
        },
    };
    let Some(evidence) = auditor.keep(&found).await else { return Ok(Inspected::Moved) };
    let is_kept = auditor.evidence().await?.is_some();
    Ok(if is_kept { Inspected::Fenced(evidence) } else { Inspected::Unfenced(evidence) })
}

fn identity(face: &Face) -> Option<Identity> {
    let cluster: ClusterId = face.cluster.parse().ok()?;
    let (zone, node) = (face.zone.parse().ok()?, NODE.parse().ok()?);
    Some(Identity { cluster, zone, node, api_url: String::new(), place: String::new() })
}
