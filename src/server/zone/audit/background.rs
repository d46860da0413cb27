//! The task that checks this zone's chain in the background while this node applies, and fences the
//! zone when something is wrong with it.
//!
//! Invariant: a chain that is sound in itself is found to be wrong only against digests that a majority
//! of the coordinators has confirmed (`witness.rs`).

use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::Head;
use pghc_api::id::WriteId;
use pghc_api::verify::Violation;
use pghc_postgres::{Dsn, Evidence, Finding, Keep, KeepError, RawChain, ReadError, Reader};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::describe;
use tokio::time::Instant;

use super::walk::{self, Checked, Located, Rate};
use super::witness::{Compared, Witness};
use crate::zone::Identity;
use crate::zone::database::Database;
use crate::zone::node_state::NodeState;

/// How often the chain is checked, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How fast.
    pub rate: Rate,
    /// From the beginning of one check to that of the next.
    pub period: Duration,
}

/// Pause before a check that was not possible is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often other zones are asked where a chain went wrong before what is known must do.
pub(crate) const LOCATE_TRIES: u32 = 60;

/// How fast the chain of a fenced zone is looked through once more: others may work on that server.
const REFINE_RATE: Rate = Rate { rows: 20_000, bytes: 32 << 20 };

/// The auditor's dependencies.
#[derive(Clone)]
pub(crate) struct Auditor {
    pub(crate) identity: Identity,
    pub(crate) dsn: Dsn,
    pub(crate) reader: Reader,
    pub(crate) database: Arc<dyn Database>,
    pub(crate) node_state: Arc<NodeState>,
    pub(crate) witness: Witness,
    pub(crate) tasks: Tasks,
}

impl Auditor {
    /// Checks again and again while this node applies. Runs until it is dropped.
    pub(crate) async fn run(self, settings: Settings) {
        loop {
            let begun = Instant::now();
            let is_at_work = self.node_state.is_applier() && self.node_state.is_proven();
            if !is_at_work || self.node_state.frontier.halted().is_some() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            match self.examine(WriteId::FIRST, settings.rate).await {
                Ok(Examined::Sound(head)) => {
                    let id = head.map_or(0, |head| head.id.get());
                    let seconds = begun.elapsed().as_secs_f64();
                    tracing::info!(id, seconds, "chain audited and sound");
                    tokio::time::sleep_until((begun + settings.period).max(begun + RETRY)).await;
                }
                Ok(Examined::Bad(_)) if self.is_misled().await => tokio::time::sleep(RETRY).await,
                Ok(Examined::Bad(found)) => self.fence(found).await,
                Ok(Examined::Unproved(why)) => {
                    tracing::warn!(
                        why,
                        "the chain of this zone is sound in itself; whether it is the one that was \
                         ordered was not confirmed"
                    );
                    tokio::time::sleep_until((begun + settings.period).max(begun + RETRY)).await;
                }
                Ok(Examined::Moved) => tokio::time::sleep(RETRY).await,
                Err(error @ ReadError::Column(_)) => {
                    self.node_state.fence(describe(&error));
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(error = describe(&error), "chain audit failed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Why the zone is fenced; `None` while it is not.
    pub(crate) async fn evidence(&self) -> Result<Option<Evidence>, ReadError> {
        self.reader.evidence().await
    }

    /// Checks the chain from link `from` on; on a finding looks for where it begins.
    pub(crate) async fn examine(&self, from: WriteId, rate: Rate) -> Result<Examined, ReadError> {
        let chain = self.connect().await?;
        let cluster = &self.identity.cluster;
        let head = match walk::check(&chain, cluster, from, rate).await? {
            Checked::Moved => return Ok(Examined::Moved),
            Checked::Bad(violation) => return self.locate(violation).await.map(Examined::Bad),
            Checked::Sound(None) => return Ok(Examined::Sound(None)),
            Checked::Sound(Some(head)) => head,
        };
        let at = (head.id.get(), head.digest);
        match self.witness.compare(self.database.as_ref(), at, false).await? {
            Compared::Same => Ok(Examined::Sound(Some(head))),
            Compared::Unproved(why) | Compared::Unanswered(why) => Ok(Examined::Unproved(why)),
            Compared::Other(violation) => self.locate(violation).await.map(Examined::Bad),
        }
    }

    /// Checks the chain from link `from` on in itself; answers the first link that does not follow.
    pub(crate) async fn recheck(&self, from: WriteId) -> Result<Option<Violation>, ReadError> {
        let chain = self.connect().await?;
        let checked = walk::check(&chain, &self.identity.cluster, from, REFINE_RATE).await?;
        Ok(match checked {
            Checked::Bad(violation) => Some(violation),
            Checked::Sound(_) | Checked::Moved => None,
        })
    }

    /// Compares the end of the chain alone, which takes no longer for a long one. `None`: it is the one
    /// that was ordered, or it cannot be told.
    pub(crate) async fn compare(&self) -> Result<Option<Located>, ReadError> {
        let face = self.database.face().await?;
        let Some(digest) = face.digest.filter(|_| face.id > 0) else { return Ok(None) };
        match self.witness.compare(self.database.as_ref(), (face.id, digest), false).await? {
            Compared::Other(violation) => self.locate(violation).await.map(Some),
            Compared::Same | Compared::Unproved(_) | Compared::Unanswered(_) => Ok(None),
        }
    }

    /// Finds where a chain went wrong that shows this.
    pub(crate) async fn locate(&self, violation: Violation) -> Result<Located, ReadError> {
        let chain = self.connect().await?;
        walk::locate(&chain, &self.identity.cluster, violation, &self.witness).await
    }

    /// Whether the schema is such that a look at rows tells nothing: one that the reading role does not see
    /// is there all the same. The finding stops reads until the schema is as it was.
    pub(crate) async fn is_misled(&self) -> bool {
        let Ok(findings) = self.reader.findings().await else { return false };
        let is_fatal = findings.iter().any(Finding::is_fatal);
        if is_fatal {
            self.node_state.schema_differs(&findings);
        }
        is_fatal
    }

    /// Keeps what was found and has the applier stop. The zone halts also where the database does not
    /// take the evidence; it does not where the chain was replaced meanwhile.
    pub(crate) async fn fence(&self, found: Located) {
        let Some(evidence) = self.keep(&found).await else { return };
        self.node_state.doubt("evidence lies against the chain of this zone");
        self.node_state.fence(evidence.to_string());
        while self.node_state.frontier.halted().is_none() && self.node_state.is_fenced() {
            tokio::time::sleep(RETRY).await;
        }
        self.refine(found).await;
    }

    /// Keeps what was found, which fences the zone, unless it is fenced already; returns the evidence as
    /// it is told to people. `None`: the chain in which it was found was replaced meanwhile.
    pub(crate) async fn keep(&self, found: &Located) -> Option<Evidence> {
        if let Ok(Some(evidence)) = self.evidence().await {
            return Some(evidence);
        }
        let evidence = self.evidence_of(found);
        match evidence.keep(Keep::Fence, &self.dsn, &self.tasks).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(%evidence, "evidence dropped, chain replaced meanwhile");
                return None;
            }
            Err(error) => {
                tracing::error!(error = describe(&error), %evidence, "evidence could not be stored");
            }
        }
        Some(evidence)
    }

    /// Keeps newer words for a zone that is fenced, and tells them; answers whether it still was.
    async fn keep_better(&self, found: &Located) -> Result<bool, KeepError> {
        let evidence = self.evidence_of(found);
        let is_kept = evidence.keep(Keep::Refine, &self.dsn, &self.tasks).await?;
        if is_kept {
            self.node_state.frontier.reword_halted(evidence.to_string());
        }
        Ok(is_kept)
    }

    fn evidence_of(&self, found: &Located) -> Evidence {
        let mut evidence = Evidence::of(&found.violation, &self.identity.node);
        if !found.is_first {
            evidence.found += " (no sound zone has said yet whether an earlier one is wrong, too)";
        }
        evidence
    }

    /// Looks again where a chain went wrong that has halted this zone, until that is known or
    /// [`LOCATE_TRIES`] are over, at most for as long as the zone is halted. The finding so far is kept
    /// before that.
    pub(crate) async fn refine(&self, found: Located) {
        let goes_on = async {
            while self.node_state.frontier.halted().is_some() {
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            biased;
            () = goes_on => {}
            () = self.look_again(found) => {}
        }
    }

    async fn look_again(&self, mut found: Located) {
        // A comparison of the end says nothing of a link that was changed alone, further down.
        if let Ok(Examined::Bad(earlier)) = self.examine(WriteId::FIRST, REFINE_RATE).await
            && earlier.violation.id < found.violation.id
            && let Ok(true) = self.keep_better(&earlier).await
        {
            found = earlier;
        }
        for _ in 0..LOCATE_TRIES {
            if found.is_first || self.node_state.frontier.halted().is_none() {
                return;
            }
            tokio::time::sleep(RETRY).await;
            match self.locate(found.violation.clone()).await {
                Ok(now) if now == found => {}
                Ok(now) => match self.keep_better(&now).await {
                    Ok(true) => found = now,
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(
                            error = describe(&error),
                            "better evidence could not be stored"
                        );
                    }
                },
                Err(error) => {
                    tracing::warn!(error = describe(&error), "chain comparison failed, retrying");
                }
            }
        }
    }

    async fn connect(&self) -> Result<RawChain, ReadError> {
        let connect = RawChain::connect_as(&self.dsn, "auditor", &self.tasks);
        Ok(connect.await?)
    }
}

/// Result of an examination.
pub(crate) enum Examined {
    /// Sound, and the one that was ordered.
    Sound(Option<Head>),
    Bad(Located),
    /// Sound in itself; whether it is the chain that was ordered could not be found out, for this reason.
    Unproved(String),
    /// As [`Checked::Moved`].
    Moved,
}
