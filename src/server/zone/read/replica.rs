//! A physical replica of this zone's database, and whether it may be read: it is looked at as the zone's
//! own database is (`guard.rs`), and must be of the same server.
//!
//! Invariant: a replica is read only while the last look at it found this zone's chain, proven, without
//! evidence against it, under the system identifier that the primary has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_postgres::Face;
use pghc_runtime::telemetry::describe;
use tokio::time::Instant;

use crate::zone::audit::guard::{Look, Looked};
use crate::zone::audit::witness::Witness;
use crate::zone::database::Database;
use crate::zone::node_state::NodeState;

/// Time between two looks at a replica that may be read, and at one that may not.
const PERIOD: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(250);

/// How long a replica that failed is not asked.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// One replica.
pub(crate) struct Replica {
    pub(crate) database: Arc<dyn Database>,
    failed: Mutex<Option<Instant>>,
    is_fit: AtomicBool,
}

impl Replica {
    /// Not to be read before it was looked at.
    pub(crate) fn new(database: Arc<dyn Database>) -> Self {
        Self { database, failed: Mutex::new(None), is_fit: AtomicBool::new(false) }
    }

    /// Whether it may be read now.
    pub(crate) fn may_be_read(&self) -> bool {
        let is_fit = self.is_fit.load(Ordering::Relaxed);
        is_fit && self.failed.lock().is_none_or(|failed| failed.elapsed() >= FAILED_PAUSE)
    }

    /// A read of it failed.
    pub(crate) fn fails(&self) {
        *self.failed.lock() = Some(Instant::now());
    }

    /// Looks at it until it is dropped.
    pub(crate) async fn watch(self: Arc<Self>, witness: Witness, node_state: Arc<NodeState>) {
        let mut look = Look::new(witness, Arc::clone(&self.database), Arc::clone(&node_state));
        let mut known = None;
        loop {
            let why = match look.look().await {
                Ok((looked, face)) => unfit(looked, &face, &node_state.system()),
                Err(error) => Some(describe(&error)),
            };
            // A change of the primary's schema is a change of the replica's.
            let why = node_state.schema_error().or(why);
            let is_fit = why.is_none();
            self.is_fit.store(is_fit, Ordering::Relaxed);
            if known.as_ref() != Some(&why) {
                match &why {
                    Some(why) => tracing::warn!(why, "replica is not read"),
                    None => tracing::info!("replica may be read"),
                }
                known = Some(why);
            }
            tokio::time::sleep(if is_fit { PERIOD } else { RETRY }).await;
        }
    }
}

/// Why a replica must not be read; `primary`: the system identifier of the zone's database, empty while
/// it is not known.
fn unfit(looked: Looked, face: &Face, primary: &str) -> Option<String> {
    match looked {
        Looked::Doubted(why) | Looked::Fenced(why) => Some(why),
        Looked::Wrong(violation) => {
            Some(format!("its chain is not the one that was ordered: {violation}"))
        }
        Looked::Proven if !primary.is_empty() && face.system != primary => Some(format!(
            "it is no replica of the zone's database: its system identifier is {}, not {primary}",
            face.system
        )),
        Looked::Proven if !face.is_replica => Some(
            "it replays no server's log: it was promoted, or is a copy that anybody may change"
                .to_owned(),
        ),
        Looked::Proven => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Face, Looked, unfit};

    #[test]
    fn a_replica_of_another_server_is_not_read() {
        let face = Face { system: "7".to_owned(), is_replica: true, ..Face::default() };
        assert_eq!(unfit(Looked::Proven, &face, "7"), None);
        assert_eq!(unfit(Looked::Proven, &face, ""), None, "the primary was never reached");
        assert!(unfit(Looked::Proven, &face, "8").is_some_and(|why| why.contains("is 7, not 8")));
        let promoted = Face { is_replica: false, ..face.clone() };
        assert!(unfit(Looked::Proven, &promoted, "7").is_some_and(|why| why.contains("promoted")));
        let doubted = Looked::Doubted("nobody vouches".to_owned());
        assert_eq!(unfit(doubted, &face, "7").as_deref(), Some("nobody vouches"));
    }
}
