//! The task that checks this zone's chain in the background while this node applies, and fences the
//! zone when something is wrong with it.
//!
//! Invariant: a chain that is sound in itself is found to be wrong only against a head that a majority
//! of the coordinators has confirmed, or a zone that has that head. Other zones have no vote, however
//! many they are.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_api::id::WriteId;
use pghc_api::time::Micros;
use pghc_api::verify::{Violation, ViolationKind};
use tokio::time::Instant;

use super::Identity;
use super::audit::{self, Checked, Located, Rate, Reference};
use super::coordinators::Coordinators;
use super::peer::Peer;
use super::report::Views;
use super::standing::Standing;
use crate::http_client::HttpClient;
use crate::postgres::{Dsn, Evidence, Keep, KeepError, RawChain, ReadError, Reader};
use crate::rpc::v1::ReadIndexRequest;
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

/// How often the coordinators are asked for a confirmed head before a chain is checked without one.
const CONFIRM_TRIES: u32 = 60;

/// Longest wait for a confirmed head.
const CONFIRM_MAX: Duration = Duration::from_secs(5);

/// How often other zones are asked where a chain went wrong before what is known must do.
pub(super) const LOCATE_TRIES: u32 = 60;

/// What the auditor works with.
#[derive(Clone)]
pub(super) struct Auditor {
    pub(super) identity: Identity,
    pub(super) dsn: Dsn,
    pub(super) reader: Reader,
    pub(super) coordinators: Coordinators,
    pub(super) standing: Arc<Standing>,
    pub(super) views: Arc<Views>,
    pub(super) http: HttpClient,
    pub(super) tasks: Tasks,
}

impl Auditor {
    /// Checks again and again while this node applies. Runs until it is dropped.
    pub(super) async fn run(self, settings: Settings) {
        let mut unconfirmed = 0;
        loop {
            let begun = Instant::now();
            if !self.standing.is_applier() || self.standing.frontier.halted().is_some() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if unconfirmed < CONFIRM_TRIES && !self.can_be_compared().await {
                unconfirmed += 1;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            unconfirmed = 0;
            match self.examine(self.standing.confirmed(), settings.rate).await {
                Ok(Examined::Sound(head)) => {
                    let id = head.map_or(0, |head| head.id.get());
                    let seconds = begun.elapsed().as_secs_f64();
                    let confirmed_id = self.standing.confirmed().map_or(0, |head| head.id.get());
                    tracing::info!(
                        id,
                        confirmed_id,
                        seconds,
                        "the chain of this zone was checked and is sound"
                    );
                    tokio::time::sleep_until((begun + settings.period).max(begun + RETRY)).await;
                }
                Ok(Examined::Bad(found)) => self.fence(found).await,
                Ok(Examined::Unproved) => {
                    tracing::warn!(
                        "the chain of this zone is sound in itself; whether it is the one that was \
                         ordered was not confirmed"
                    );
                    tokio::time::sleep_until((begun + settings.period).max(begun + RETRY)).await;
                }
                Ok(Examined::Moved) => tokio::time::sleep(RETRY).await,
                Err(error @ ReadError::Column(_)) => {
                    self.standing.fence(describe(&error));
                    tokio::time::sleep(RETRY).await;
                }
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
            Checked::Sound(None) => return Ok(Examined::Sound(None)),
            Checked::Sound(Some(head)) => match self.compare(&chain, head, confirmed).await? {
                Compared::Same => return Ok(Examined::Sound(Some(head))),
                Compared::Unproved => return Ok(Examined::Unproved),
                Compared::Other(violation) => violation,
            },
        };
        let others = self.others(confirmed).await;
        audit::locate(&chain, violation, &others).await.map(Examined::Bad)
    }

    /// Keeps what was found and has the applier stop. Kept or not, the zone halts.
    async fn fence(&self, found: Located) {
        let evidence = self.keep(&found).await;
        self.standing.fence(evidence.to_string());
        while self.standing.frontier.halted().is_none() && self.standing.is_applier() {
            tokio::time::sleep(RETRY).await;
        }
        self.refine(found).await;
    }

    /// Keeps what was found, which fences the zone; answers it as it is told to people.
    pub(super) async fn keep(&self, found: &Located) -> Evidence {
        let evidence = self.evidence_of(found);
        if let Err(error) = evidence.keep(Keep::Fence, &self.dsn, &self.tasks).await {
            tracing::error!(error = describe(&error), %evidence, "the evidence was not kept");
        }
        evidence
    }

    /// Keeps newer words for a zone that is fenced, and tells them; answers whether it still was.
    async fn keep_better(&self, found: &Located) -> Result<bool, KeepError> {
        let evidence = self.evidence_of(found);
        let is_kept = evidence.keep(Keep::Refine, &self.dsn, &self.tasks).await?;
        if is_kept {
            self.standing.frontier.reword_halted(evidence.to_string());
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
                Ok(now) => match self.keep_better(&now).await {
                    Ok(true) => found = now,
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(error = describe(&error), "the better finding was not kept");
                    }
                },
                Err(error) => {
                    tracing::warn!(error = describe(&error), "the chain cannot be compared yet");
                }
            }
        }
    }

    async fn relocate(&self, violation: Violation) -> Result<Located, ReadError> {
        let chain = self.connect().await?;
        let others = self.others(self.standing.confirmed()).await;
        audit::locate(&chain, violation, &others).await
    }

    async fn connect(&self) -> Result<RawChain, ReadError> {
        let connect = RawChain::connect_as(&self.dsn, "auditor", &self.tasks);
        Ok(connect.await?)
    }

    /// The other zones, nearest first; only those with a confirmed link, if one can be had, since a
    /// zone that was changed in the same way would hide where this one was.
    async fn others(&self, confirmed: Option<Head>) -> Others {
        let due = match confirmed {
            Some(head) => Some(head),
            None => self.majority_head().await,
        };
        // All at once: each is waited for, and there may be many.
        let asked = self.views.sources(&self.identity.zone).into_iter().map(async |source| {
            let peer = Peer::new(self.http.clone(), &source.zone, &source.url);
            let Some(due) = due else { return Some(peer) };
            match peer.digest(due.id.get()).await {
                Ok(digest) if digest == due.digest => return Some(peer),
                Ok(_) => tracing::warn!(peer.zone, "its chain is not the confirmed one either"),
                Err(error) => tracing::warn!(peer.zone, %error, "no digest"),
            }
            None
        });
        let peers = futures::future::join_all(asked).await.into_iter().flatten().collect();
        Others { peers, due }
    }

    /// Compares a chain that is sound in itself up to `head` with the one that was ordered. It is
    /// another one when a majority of the coordinators has confirmed another link, and a zone that has
    /// that link confirms it: coordinators alone may have been set back.
    ///
    /// What was `confirmed` to this process needs no asking.
    async fn compare(
        &self,
        chain: &RawChain,
        head: Head,
        confirmed: Option<Head>,
    ) -> Result<Compared, ReadError> {
        if confirmed.is_some_and(|confirmed| confirmed.id <= head.id) {
            return Ok(Compared::Same);
        }
        let Some(due) = self.majority_head().await else { return Ok(Compared::Unproved) };
        if due.id <= head.id && audit::own_digest(chain, due.id.get()).await? == Some(due.digest) {
            self.standing.confirm_first(due);
            return Ok(Compared::Same);
        }
        let at = due.id.min(head.id);
        for peer in self.others(Some(due)).await.peers {
            let Ok(theirs) = peer.digest(at.get()).await else { continue };
            let ours = audit::own_digest(chain, at.get()).await?;
            if ours == Some(theirs) {
                self.standing.confirm_first(head);
                return Ok(Compared::Same);
            }
            let ours = ours.map_or("none".to_owned(), |digest| digest.to_string());
            tracing::error!(
                zone = peer.zone, id = %at, %theirs, ours,
                "the coordinators and this zone have another chain than ours"
            );
            let kind = ViolationKind::Fork;
            return Ok(Compared::Other(Violation::new(at.as_i64(), kind, theirs, ours)));
        }
        Ok(Compared::Unproved)
    }

    /// Whether a confirmed head is known, or can be had, that this zone has applied.
    async fn can_be_compared(&self) -> bool {
        let has_applied = |head: Head| head.id.get() <= self.standing.frontier.id();
        self.standing.confirmed().is_some() || self.majority_head().await.is_some_and(has_applied)
    }

    /// The newest link that a majority of the coordinators confirms to be committed; `None` while
    /// they do not, and while there is none.
    async fn majority_head(&self) -> Option<Head> {
        let (_, mut client) = self.coordinators.nearest();
        let mut request = tonic::Request::new(ReadIndexRequest::default());
        request.set_timeout(CONFIRM_MAX);
        let answer = tokio::time::timeout(CONFIRM_MAX, client.read_index(request)).await;
        let reply = answer.ok()?.ok()?.into_inner();
        Some(Head {
            id: WriteId::try_from(reply.id).ok()?,
            hash: LinkHash(reply.hash[..].try_into().ok()?),
            digest: Digest(reply.digest[..].try_into().ok()?),
            written_at: Micros(reply.written_at),
        })
    }
}

/// What an examination came to.
pub(super) enum Examined {
    /// Sound, and the one that was ordered.
    Sound(Option<Head>),
    Bad(Located),
    /// Sound in itself; whether it is the chain that was ordered could not be found out.
    Unproved,
    /// As [`Checked::Moved`].
    Moved,
}

/// What a chain that is sound in itself is beside the one that was ordered.
enum Compared {
    /// The same.
    Same,
    /// As [`Examined::Unproved`].
    Unproved,
    /// Another one, at this link at the latest.
    Other(Violation),
}

/// Zones that are asked for digests, and the one digest that needs no asking.
struct Others {
    peers: Vec<Peer>,
    due: Option<Head>,
}

impl Reference for Others {
    fn digest(&self, id: u64) -> BoxFuture<'_, Option<Digest>> {
        Box::pin(async move {
            if let Some(due) = self.due.filter(|due| due.id.get() == id) {
                return Some(due.digest);
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
