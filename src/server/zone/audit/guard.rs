//! The task by which every node of a zone, applier or not, knows whether its zone's chain is the one
//! that was ordered: it looks at the frontier about once a second and has the coordinators vouch for it.
//!
//! Invariant: a node serves no link of a chain before its first comparison, and a chain that differs or
//! has evidence against it is fenced. Proven links stay proven while the coordinators are away, as long
//! as the compared links are still there.

use std::sync::Arc;
use std::time::Duration;

use pghc_api::verify::{Violation, ViolationKind};
use pghc_postgres::{Face, ReadError};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::telemetry::describe;
use tokio::time::{Instant, timeout};

use super::background::Auditor;
use super::walk::Located;
use super::witness::{Compared, Mark, Witness, own_digest};
use crate::zone::Identity;
use crate::zone::database::Database;
use crate::zone::node_state::NodeState;

/// Time between two looks at a chain that is proven.
const PERIOD: Duration = Duration::from_secs(1);

/// Time between two looks at one that is not: at first, and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How long a proven chain may stand at a link that coordinators which answer do not know, before nothing
/// of it is served: an ack may reach a zone sooner than the leader. For a node that does not apply itself.
const UNKNOWN_MAX: Duration = Duration::from_secs(1);

/// How long after the last answer of a coordinator a link may still appear that was ordered before. For a
/// node that does not apply itself.
const UNDER_WAY_MAX: Duration = Duration::from_secs(3);

/// Longest comparison of a newest link: what is not known then counts as not answered.
const COMPARE_MAX: Duration = Duration::from_secs(5);

/// Longest search for the first bad link before the zone is fenced; it goes on behind the fence.
const LOCATE_MAX: Duration = Duration::from_secs(5);

/// Longest look for what is wrong with a link that a read found changed: it is the first one looked at.
const CONFIRM_MAX: Duration = Duration::from_secs(10);

/// Result of a look at a database.
pub(crate) enum Looked {
    /// Its chain is the one that was ordered.
    Proven,
    /// It cannot be told, for this reason.
    Doubted(String),
    /// Evidence lies against it; these are its words.
    Fenced(String),
    /// It is another chain.
    Wrong(Violation),
}

/// Looks at one database again and again, and remembers what was proven.
pub(crate) struct Look {
    witness: Witness,
    database: Arc<dyn Database>,
    node_state: Arc<NodeState>,
    proven: Option<Mark>,
    /// Since when coordinators that answer do not know the newest link.
    unknown_since: Option<Instant>,
    /// When coordinators last answered.
    answered: Option<Instant>,
    /// The newest link, and when it was first seen.
    newest: Option<(Mark, Instant)>,
}

impl Look {
    /// `node_state`: what this node has applied itself is proven.
    pub(crate) fn new(
        witness: Witness,
        database: Arc<dyn Database>,
        node_state: Arc<NodeState>,
    ) -> Self {
        let (proven, unknown_since, answered, newest) = (None, None, None, None);
        Self { witness, database, node_state, proven, unknown_since, answered, newest }
    }

    /// Looks; answers also what the database says of itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn look(&mut self) -> Result<(Looked, Face), ReadError> {
        let face = self.database.face().await?;
        Ok((self.judge(&face).await?, face))
    }

    /// Everything must be compared anew.
    pub(crate) fn forget(&mut self) {
        self.proven = None;
    }

    async fn judge(&mut self, face: &Face) -> Result<Looked, ReadError> {
        let Identity { cluster, zone, .. } = &self.witness.identity;
        if let Some(evidence) = &face.evidence {
            return Ok(Looked::Fenced(evidence.to_string()));
        }
        if face.cluster.is_empty() {
            return Ok(Looked::Doubted("the database has no chain yet".to_owned()));
        }
        if face.cluster != cluster.as_str() || face.zone != zone.as_str() {
            let Face { cluster, zone, .. } = face;
            let words = format!("the database is of zone {zone} of cluster {cluster}");
            return Ok(Looked::Doubted(words));
        }
        if let Some(above) = face.above {
            let at = face.id.cast_signed().saturating_add(1);
            let due = format!("no row above {}, where the frontier stands", face.id);
            let (kind, is) = (ViolationKind::RowsAboveFrontier, format!("rows up to {above}"));
            return Ok(Looked::Wrong(Violation::new(at, kind, due, is)));
        }
        if face.id == 0 {
            // An empty chain is the beginning of any; what comes next is compared anew.
            self.proven = None;
            return Ok(Looked::Proven);
        }
        let Some(digest) = face.digest.filter(|_| face.digest == face.link) else {
            let (at, kind) = (face.id.cast_signed(), ViolationKind::WrongFrontier);
            let (due, is) = ("the digest of the newest link", "another one, or no such link");
            return Ok(Looked::Wrong(Violation::new(at, kind, due, is)));
        };
        self.judge_head((face.id, digest)).await
    }

    async fn judge_head(&mut self, at: Mark) -> Result<Looked, ReadError> {
        let now = Instant::now();
        let first_seen = match self.newest {
            Some((newest, since)) if newest == at => since,
            _ => self.newest.insert((at, now)).1,
        };
        if self.node_state.knows(at) || mutation::is_active(Mutant::OwnChainNotCompared) {
            (self.proven, self.unknown_since) = (Some(at), None);
            self.note_answers(now, at).await;
            return Ok(Looked::Proven);
        }
        let own = self.database.as_ref();
        let is_there = match self.proven {
            Some((id, digest)) if id < at.0 => own_digest(own, id).await? == Some(digest),
            _ => false,
        };
        self.proven = self.proven.filter(|_| is_there);
        let comparing = self.witness.compare(own, at, self.proven.is_some());
        // A chain of which nothing is proven may need to be read from other zones.
        let limit = if self.proven.is_some() { COMPARE_MAX } else { Duration::MAX };
        let compared = timeout(limit, comparing).await;
        let compared = compared.unwrap_or_else(|_| {
            Ok(Compared::Unanswered("the coordinators did not answer in time".to_owned()))
        })?;
        if !matches!(compared, Compared::Unanswered(_)) {
            self.answered = Some(now);
        }
        // An applier knows what it applied. Other nodes see links that are on their way to be known.
        let may_be_new = self.proven.is_some() && !self.node_state.is_applier();
        Ok(match compared {
            Compared::Same => {
                self.node_state.know(at);
                (self.proven, self.unknown_since) = (Some(at), None);
                Looked::Proven
            }
            Compared::Other(violation) => Looked::Wrong(violation),
            Compared::Unanswered(_) if may_be_new && self.was_under_way(first_seen) => {
                Looked::Proven
            }
            Compared::Unproved(_) if may_be_new && !self.is_unknown_for_long(now) => Looked::Proven,
            Compared::Unproved(why) | Compared::Unanswered(why) => Looked::Doubted(why),
        })
    }

    /// Remembers whether coordinators answer, for a node that does not apply: while nothing is written no
    /// comparison says so.
    async fn note_answers(&mut self, now: Instant, at: Mark) {
        let is_old = self.answered.is_none_or(|answered| answered + PERIOD <= now);
        if is_old && !self.node_state.is_applier() && self.witness.mark(at.0).await.is_some() {
            self.answered = Some(now);
        }
    }

    fn was_under_way(&self, first_seen: Instant) -> bool {
        self.answered.is_some_and(|answered| first_seen < answered + UNDER_WAY_MAX)
    }

    fn is_unknown_for_long(&mut self, now: Instant) -> bool {
        now - *self.unknown_since.get_or_insert(now) >= UNKNOWN_MAX
    }
}

/// Looks at the zone's own database.
pub(crate) struct Guard {
    pub(crate) look: Look,
    pub(crate) node_state: Arc<NodeState>,
    /// `None` in surroundings where evidence cannot be kept.
    pub(crate) auditor: Option<Auditor>,
}

impl Guard {
    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut retry = RETRY;
        loop {
            if self.node_state.frontier.halted().is_some() {
                self.look.forget();
                self.node_state.doubt("the zone has halted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if let Some(why) = self.node_state.schema_error() {
                self.node_state.doubt(&why);
                tokio::time::sleep(RETRY_MAX).await;
                continue;
            }
            let pause = match self.look.look().await {
                Ok((Looked::Proven, face)) => {
                    self.node_state.set_system(&face.system);
                    self.node_state.prove();
                    retry = RETRY;
                    PERIOD
                }
                Ok((Looked::Doubted(why), _)) => {
                    self.node_state.doubt(&format!(
                        "it is not known yet whether this zone's chain is the one that was \
                         ordered, so nothing is served: {why}"
                    ));
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    pause
                }
                Ok((Looked::Fenced(why), _)) => {
                    self.halt(why).await;
                    RETRY
                }
                Ok((Looked::Wrong(violation), _)) => {
                    self.fence(violation).await;
                    RETRY
                }
                Err(error) => {
                    error
                        .changed_link()
                        .into_iter()
                        .for_each(|id| self.node_state.found_changed(id));
                    tracing::debug!(error = describe(&error), "the database shows no chain");
                    self.node_state
                        .doubt(&format!("the database shows no chain: {}", describe(&error)));
                    RETRY
                }
            };
            self.look_into_changed().await;
            self.node_state.recheck_within(pause).await;
        }
    }

    /// Fences the zone if a link that a read found changed is changed.
    async fn look_into_changed(&self) {
        let Some((id, auditor)) = self.node_state.take_changed().zip(self.auditor.as_ref()) else {
            return;
        };
        match timeout(CONFIRM_MAX, auditor.recheck(id)).await {
            Ok(Ok(Some(violation))) => self.fence(violation).await,
            Ok(Ok(None)) => tracing::warn!(%id, "changed link is sound again"),
            Ok(Err(error)) => {
                tracing::warn!(%id, error = describe(&error), "changed link could not be examined");
            }
            Err(_) => tracing::warn!(%id, "changed link was not examined in time"),
        }
    }

    /// Finds where the chain went wrong, keeps that, and halts the zone.
    async fn fence(&self, violation: Violation) {
        self.node_state.doubt(&violation.to_string());
        let Some(auditor) = &self.auditor else { return self.halt(violation.to_string()).await };
        if auditor.is_misled().await {
            return;
        }
        match timeout(LOCATE_MAX, auditor.locate(violation.clone())).await {
            Ok(Ok(found)) => auditor.fence(found).await,
            // Nothing is served; it is looked at again.
            Ok(Err(error)) => {
                tracing::warn!(error = describe(&error), "first bad link not located");
            }
            // Coordinators or zones that are asked are slow: the fence does not wait for them.
            Err(_) => auditor.fence(Located { violation, is_first: false }).await,
        }
    }

    async fn halt(&self, why: String) {
        self.node_state.doubt(&why);
        self.node_state.fence(why);
        while self.node_state.frontier.halted().is_none() && self.node_state.is_fenced() {
            tokio::time::sleep(RETRY).await;
        }
    }
}
