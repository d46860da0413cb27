//! The task that checks this zone's chain in the background while this node applies, and fences the
//! zone when something is wrong with it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pghc_api::chain::{Digest, Head};
use pghc_api::verify::{Violation, ViolationKind};
use tokio::time::Instant;

use super::Identity;
use super::audit::{self, Checked, Rate, Reference};
use super::peer::Peer;
use super::report::Views;
use super::standing::Standing;
use crate::postgres::{Dsn, Evidence, RawChain, ReadError, Reader};
use crate::task::Tasks;
use crate::telemetry::describe;

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

/// What the auditor works with.
#[derive(Clone)]
pub(super) struct Auditor {
    pub(super) identity: Identity,
    pub(super) dsn: Dsn,
    pub(super) reader: Reader,
    pub(super) standing: Arc<Standing>,
    pub(super) views: Arc<Views>,
    pub(super) http: reqwest::Client,
    pub(super) tasks: Tasks,
}

impl Auditor {
    /// Checks again and again while this node applies. Runs until it is dropped.
    pub(super) async fn run(self, settings: Settings) {
        loop {
            let begun = Instant::now();
            if !self.standing.is_applier() || self.standing.frontier.halted().is_some() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            match self.examine(self.standing.confirmed(), settings.rate).await {
                Ok(Examined::Sound(head)) => {
                    let (id, seconds) =
                        (head.map_or(0, |head| head.id.get()), begun.elapsed().as_secs_f64());
                    tracing::info!(id, seconds, "the chain of this zone was checked and is sound");
                    tokio::time::sleep_until((begun + settings.period).max(begun + RETRY)).await;
                }
                Ok(Examined::Bad(evidence)) => self.fence(evidence).await,
                Ok(Examined::Moved) => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    tracing::warn!(error = describe(&error), "the chain could not be checked");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Why the zone is fenced; `None` while it is not.
    pub(super) async fn evidence(&self) -> Result<Option<Evidence>, ReadError> {
        self.reader.evidence().await
    }

    /// Checks the whole chain; on a finding looks for where it begins.
    pub(super) async fn examine(
        &self,
        confirmed: Option<Head>,
        rate: Rate,
    ) -> Result<Examined, ReadError> {
        let connect = RawChain::connect_as(&self.dsn, "auditor", &self.tasks);
        let chain = connect.await.map_err(|error| ReadError::Unavailable(Some(error.into())))?;
        let violation = match audit::check(&chain, &self.identity.cluster, confirmed, rate).await? {
            Checked::Moved => return Ok(Examined::Moved),
            Checked::Bad(violation) => violation,
            Checked::Sound(head) => match self.outvoted(&chain, head, confirmed).await? {
                None => return Ok(Examined::Sound(head)),
                Some(violation) => violation,
            },
        };
        let others = Others { peers: self.peers(violation.id.cast_unsigned()), confirmed };
        let found = audit::locate(&chain, violation, &others).await?;
        Ok(Examined::Bad(Evidence::of(&found, &self.identity.node)))
    }

    /// Keeps what was found and has the applier stop. Kept or not, the zone halts.
    async fn fence(&self, evidence: Evidence) {
        if let Err(error) = evidence.keep(&self.dsn, &self.tasks).await {
            tracing::error!(error = describe(&error), %evidence, "the evidence was not kept");
        }
        self.standing.fence(evidence.to_string());
        while self.standing.frontier.halted().is_none() && self.standing.is_applier() {
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Other zones that have link `id`, nearest first.
    fn peers(&self, id: u64) -> Vec<Peer> {
        let sources = self.views.sources(&self.identity.zone).into_iter();
        let ahead = sources.filter(|source| source.frontier >= id);
        ahead.map(|source| Peer::new(self.http.clone(), &source.zone, &source.url)).collect()
    }

    /// Compares a chain that is sound in itself with the other zones'. It is a violation when more
    /// of them have another one than have ours, and no coordinator has confirmed ours.
    async fn outvoted(
        &self,
        chain: &RawChain,
        head: Option<Head>,
        confirmed: Option<Head>,
    ) -> Result<Option<Violation>, ReadError> {
        let Some(head) = head else { return Ok(None) };
        let (mut with_us, mut against) = (1, None::<(usize, u64, Digest, Digest)>);
        for source in self.views.sources(&self.identity.zone) {
            let id = source.frontier.min(head.id.get());
            let peer = Peer::new(self.http.clone(), &source.zone, &source.url);
            let (Ok(theirs), Some(ours)) =
                (peer.digest(id).await, audit::own_digest(chain, id).await?)
            else {
                continue;
            };
            if theirs == ours {
                with_us += 1;
                continue;
            }
            tracing::error!(
                zone = source.zone, id, %theirs, %ours,
                "another zone has another chain than this one"
            );
            let known = against.map_or((0, id), |(count, id, ..)| (count, id));
            against = Some((known.0 + 1, known.1.min(id), theirs, ours));
        }
        let is_proved = confirmed.is_some_and(|confirmed| confirmed.id <= head.id);
        let outvoted = against.filter(|(count, ..)| *count > with_us && !is_proved);
        Ok(outvoted.map(|(_, id, theirs, ours)| {
            Violation::new(id.cast_signed(), ViolationKind::Fork, theirs, ours)
        }))
    }
}

/// What an examination came to.
pub(super) enum Examined {
    Sound(Option<Head>),
    Bad(Evidence),
    Moved,
}

/// Zones that are asked for digests, and the one digest that needs no asking.
struct Others {
    peers: Vec<Peer>,
    confirmed: Option<Head>,
}

impl Reference for Others {
    fn digest(&self, id: u64) -> BoxFuture<'_, Option<Digest>> {
        Box::pin(async move {
            if let Some(confirmed) = self.confirmed.filter(|confirmed| confirmed.id.get() == id) {
                return Some(confirmed.digest);
            }
            for peer in &self.peers {
                match peer.digest(id).await {
                    Ok(digest) => return Some(digest),
                    Err(error) => tracing::warn!(zone = peer.zone, %error, "no digest"),
                }
            }
            None
        })
    }
}
