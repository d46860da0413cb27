//! The task that checks this zone's chain in the background while this node applies, and fences the
//! zone when something is wrong with it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pghc_api::chain::{Digest, Head};
use pghc_api::verify::{Violation, ViolationKind};
use tokio::time::Instant;

use super::Identity;
use super::audit::{self, Checked, Located, Rate, Reference};
use super::peer::Peer;
use super::report::Views;
use super::standing::Standing;
use crate::postgres::{Dsn, Evidence, Keep, RawChain, ReadError, Reader};
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

/// How often other zones are asked where a chain went wrong before what is known must do.
const LOCATE_TRIES: u32 = 60;

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
                Ok(Examined::Bad(found)) => self.fence(found).await,
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
        let chain = self.connect().await?;
        let violation = match audit::check(&chain, &self.identity.cluster, confirmed, rate).await? {
            Checked::Moved => return Ok(Examined::Moved),
            Checked::Bad(violation) => violation,
            Checked::Sound(head) => match self.outvoted(&chain, head, confirmed).await? {
                None => return Ok(Examined::Sound(head)),
                Some(violation) => violation,
            },
        };
        let others = Others { peers: self.peers(), confirmed };
        audit::locate(&chain, violation, &others).await.map(Examined::Bad)
    }

    /// Keeps what was found and has the applier stop. Kept or not, the zone halts.
    async fn fence(&self, found: Located) {
        let evidence = self.keep(&found, Keep::Fence).await;
        self.standing.fence(evidence.to_string());
        while self.standing.frontier.halted().is_none() && self.standing.is_applier() {
            tokio::time::sleep(RETRY).await;
        }
        self.refine(found).await;
    }

    /// Keeps what was found; answers it as it is told to people.
    pub(super) async fn keep(&self, found: &Located, how: Keep) -> Evidence {
        let mut evidence = Evidence::of(&found.violation, &self.identity.node);
        if !found.is_first {
            evidence.found += " (no sound zone has said yet whether an earlier one is wrong, too)";
        }
        if let Err(error) = evidence.keep(how, &self.dsn, &self.tasks).await {
            tracing::error!(error = describe(&error), %evidence, "the evidence was not kept");
        }
        evidence
    }

    /// Asks the other zones again where a chain went wrong that has halted this zone, until they
    /// have answered or [`LOCATE_TRIES`] are over. The finding so far is kept before that.
    pub(super) async fn refine(&self, mut found: Located) {
        for _ in 0..LOCATE_TRIES {
            if found.is_first || self.standing.frontier.halted().is_none() {
                return;
            }
            tokio::time::sleep(RETRY).await;
            match self.relocate(found.violation.clone()).await {
                Ok(now) if now == found => {}
                Ok(now) => {
                    let evidence = self.keep(&now, Keep::Refine).await;
                    self.standing.frontier.set_halted(Some(evidence.to_string()));
                    found = now;
                }
                Err(error) => {
                    tracing::warn!(error = describe(&error), "the chain cannot be compared yet");
                }
            }
        }
    }

    async fn relocate(&self, violation: Violation) -> Result<Located, ReadError> {
        let chain = self.connect().await?;
        let others = Others { peers: self.peers(), confirmed: self.standing.confirmed() };
        audit::locate(&chain, violation, &others).await
    }

    async fn connect(&self) -> Result<RawChain, ReadError> {
        let connect = RawChain::connect_as(&self.dsn, "auditor", &self.tasks);
        connect.await.map_err(|error| ReadError::Unavailable(Some(error.into())))
    }

    /// The other zones, nearest first. One that is behind says so when it is asked.
    fn peers(&self) -> Vec<Peer> {
        let sources = self.views.sources(&self.identity.zone).into_iter();
        sources.map(|source| Peer::new(self.http.clone(), &source.zone, &source.url)).collect()
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
    Bad(Located),
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
