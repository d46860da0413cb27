//! A zone that has halted: finding out what is wrong with its chain, and waiting until another
//! database, or another chain in it, stands in the place of this one.

use std::time::Duration;

use pghc_api::id::WriteId;
use pghc_postgres::reseed::Operator;
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::telemetry::describe;

use crate::zone::audit::background::{Auditor, Examined, LOCATE_TRIES};
use crate::zone::audit::walk::{Located, Rate};
use crate::zone::node_state::NodeState;

/// How often a halted zone looks whether its database was replaced.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The dependencies of a halted applier.
pub(crate) struct Halt<'a> {
    pub(crate) node_state: &'a NodeState,
    /// `None` in surroundings where the database cannot be replaced.
    pub(crate) auditor: Option<&'a Auditor>,
}

impl Halt<'_> {
    /// Halts for `why`, finds out where the chain went wrong if it is the chain, and answers when the
    /// database was replaced.
    pub(crate) async fn run(self, why: String, is_chain: bool) {
        tracing::error!(why, "zone halted, data unchanged");
        let look = self.auditor.map(|auditor| Look { auditor });
        // Identify the database before the halt is published: an operator may replace it at once, and the
        // replacement would then go unnoticed.
        let before = match &look {
            Some(look) => tokio::time::timeout(LOOK_PERIOD, look.identify()).await.ok().flatten(),
            None => None,
        };
        self.node_state.frontier.set_halted(Some(why));
        let Some(look) = look else { return std::future::pending().await };
        tokio::select! {
            biased;
            () = look.until_replaced(before) => {}
            () = look.search(is_chain) => {}
        }
        failpoint::pass(Point::ReplacedSeen);
        tracing::info!("database replaced, applying resumed");
        let ordered = look.auditor.witness.views.head().max(self.node_state.known_frontier());
        self.node_state.frontier.limit_seen(ordered);
        self.node_state.unfence();
        self.node_state.doubt("database replaced, chain not compared yet");
        self.node_state.frontier.set_halted(None);
    }
}

struct Look<'a> {
    auditor: &'a Auditor,
}

impl Look<'_> {
    /// Looks for the first bad link and keeps what it finds. A chain that shows nothing wrong is left
    /// alone: then it may be the coordinators that are wrong, and a restart tries again.
    async fn find(&self) -> Option<Located> {
        let mut unproved = 0;
        let found = loop {
            // The end first: that takes no longer for a long chain.
            let examined = match self.auditor.compare().await {
                Ok(Some(found)) => break found,
                Ok(None) => self.auditor.examine(WriteId::FIRST, Rate::UNBOUNDED).await,
                Err(error) => Err(error),
            };
            match examined {
                Ok(Examined::Bad(found)) => break found,
                Ok(Examined::Unproved(_)) if unproved < LOCATE_TRIES => {
                    unproved += 1;
                    tokio::time::sleep(LOOK_PERIOD).await;
                }
                Ok(Examined::Sound(_) | Examined::Unproved(_)) => {
                    tracing::error!("chain is sound but not the ordered one");
                    return None;
                }
                Ok(Examined::Moved) => return None,
                Err(error) => {
                    tracing::warn!(error = describe(&error), "chain audit not possible yet");
                    tokio::time::sleep(LOOK_PERIOD).await;
                }
            }
        };
        let evidence = self.auditor.keep(&found).await?;
        tracing::error!(%evidence, "first bad link located");
        self.auditor.node_state.frontier.reword_halted(evidence.to_string());
        Some(found)
    }

    /// Looks for where the chain went wrong, if it is the chain, until it is found. Never returns.
    async fn search(&self, is_chain: bool) {
        if is_chain && let Some(found) = self.find().await {
            self.auditor.refine(found).await;
        }
        std::future::pending().await
    }

    async fn until_replaced(&self, mut before: Option<String>) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let Some(now) = self.identify().await else { continue };
            match &before {
                Some(before) if *before != now => return,
                Some(_) => {}
                None => before = Some(now),
            }
        }
    }

    /// Which database this is and how its chain stands; `None` while it does not answer.
    async fn identify(&self) -> Option<String> {
        let operator = Operator::connect(&self.auditor.dsn, &self.auditor.tasks).await.ok()?;
        operator.identify().await.ok()
    }
}
