//! The task by which every node of a zone, applier or not, knows whether its zone's chain is the one
//! that was ordered: it looks at the frontier about once a second and has the coordinators vouch for it.
//!
//! Invariant: until a chain was compared nothing of it is served, and one that is another one, or against
//! which evidence lies, is fenced. What was proven stays proven while the coordinators are away, for as
//! long as the links that were compared are still there.

use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::Digest;
use pghc_api::verify::{Violation, ViolationKind};

use super::Identity;
use super::auditor::Auditor;
use super::database::Database;
use super::standing::Standing;
use super::witness::{Compared, Mark, Witness, own_digest};
use crate::postgres::{Face, ReadError};
use crate::sabotage::{self, Bug};
use crate::telemetry::describe;

/// Time between two looks at a chain that is proven.
const PERIOD: Duration = Duration::from_secs(1);

/// Time between two looks at one that is not: at first, and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What a look at a database came to.
pub(super) enum Looked {
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
pub(super) struct Look {
    witness: Witness,
    database: Arc<dyn Database>,
    proven: Option<Mark>,
}

impl Look {
    pub(super) fn new(witness: Witness, database: Arc<dyn Database>) -> Self {
        Self { witness, database, proven: None }
    }

    /// Looks; answers also what the database says of itself.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(super) async fn look(&mut self) -> Result<(Looked, Face), ReadError> {
        let face = self.database.face().await?;
        Ok((self.judge(&face).await?, face))
    }

    /// Everything must be compared anew.
    pub(super) fn forget(&mut self) {
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
        if face.id == 0 {
            self.proven = Some((0, Digest::default()));
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
        if self.proven == Some(at) || sabotage::is(Bug::OwnChainNotCompared) {
            return Ok(Looked::Proven);
        }
        let own = self.database.as_ref();
        let is_there = match self.proven {
            Some((0, _)) => true,
            Some((id, digest)) if id < at.0 => own_digest(own, id).await? == Some(digest),
            _ => false,
        };
        self.proven = self.proven.filter(|_| is_there);
        Ok(match self.witness.compare(own, at, self.proven.is_some()).await? {
            Compared::Same => {
                self.proven = Some(at);
                Looked::Proven
            }
            Compared::Other(violation) => Looked::Wrong(violation),
            // What is behind the links that were proven was planned from them.
            Compared::Unproved(_) if self.proven.is_some() => Looked::Proven,
            Compared::Unproved(why) => Looked::Doubted(why),
        })
    }
}

/// Looks at the zone's own database.
pub(super) struct Guard {
    pub(super) look: Look,
    pub(super) standing: Arc<Standing>,
    /// `None` in surroundings where evidence cannot be kept.
    pub(super) auditor: Option<Auditor>,
}

impl Guard {
    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut retry = RETRY;
        loop {
            if self.standing.frontier.halted().is_some() {
                self.look.forget();
                self.standing.doubt("the zone has halted");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let pause = match self.look.look().await {
                Ok((Looked::Proven, face)) => {
                    self.standing.set_system(&face.system);
                    self.standing.prove();
                    retry = RETRY;
                    PERIOD
                }
                Ok((Looked::Doubted(why), _)) => {
                    self.standing.doubt(&format!(
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
                    tracing::debug!(error = describe(&error), "the database shows no chain");
                    self.standing.doubt("the database does not answer");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Finds where the chain went wrong, keeps that, and halts the zone.
    async fn fence(&self, violation: Violation) {
        self.standing.doubt(&violation.to_string());
        let Some(auditor) = &self.auditor else { return self.halt(violation.to_string()).await };
        match auditor.locate(violation).await {
            Ok(found) => auditor.fence(found).await,
            // Nothing is served; it is looked at again.
            Err(error) => {
                tracing::warn!(error = describe(&error), "where the chain went wrong is not known");
            }
        }
    }

    async fn halt(&self, why: String) {
        self.standing.doubt(&why);
        self.standing.fence(why);
        while self.standing.frontier.halted().is_none() && self.standing.is_fenced() {
            tokio::time::sleep(RETRY).await;
        }
    }
}
