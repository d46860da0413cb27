//! The coordinators as witnesses of the chain: whether what a database holds is what was ordered, and
//! which links another zone has that are.
//!
//! Invariant: a chain is called another one only against a digest that a majority of the coordinators has
//! confirmed. Zones have no vote: what one of them shows counts only where its links, recomputed, lead to
//! such a digest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use pghc_api::chain::{Digest, Head, Link};
use pghc_api::id::WriteId;
use pghc_api::verify::{Violation, ViolationKind};
use pghc_postgres::ReadError;
use pghc_runtime::http_client::HttpClient;
use pghc_runtime::rpc::v1::VouchRequest;
use pghc_runtime::telemetry::describe;
use tokio::time::timeout;

use super::walk::Reference;
use crate::sequencer::{COARSEST, MIDDLE};
use crate::zone::Identity;
use crate::zone::apply::peer::Peer;
use crate::zone::apply::plan::follow;
use crate::zone::coordinators::Coordinators;
use crate::zone::database::Database;
use crate::zone::reports::views::{Source, Views};

/// Longest wait for one coordinator, and for a majority.
const ANSWER_MAX: Duration = Duration::from_secs(1);
const CONFIRM_MAX: Duration = Duration::from_secs(5);

/// Most links that are read from another zone between two marks, and for how long.
const BETWEEN_MAX: u64 = COARSEST + MIDDLE;
const BETWEEN_TIME_MAX: Duration = Duration::from_secs(60);

/// The digest of a link.
pub(crate) type Mark = (u64, Digest);

/// Asks the coordinators, and other zones.
#[derive(Clone)]
pub(crate) struct Witness {
    pub(crate) identity: Identity,
    pub(crate) coordinators: Coordinators,
    pub(crate) views: Arc<Views>,
    pub(crate) http: HttpClient,
}

/// Result of comparing a chain with the ordered one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    /// The same up to the link that was asked about.
    Same,
    /// Another one, at this link at the latest.
    Other(Violation),
    /// It could not be told, for this reason, though coordinators answer.
    Unproved(String),
    /// It could not be told, because no coordinator answers that is up to date.
    Unanswered(String),
}

/// The coordinators' knowledge of a link.
struct Vouched {
    /// The newest link at or below it whose digest they know.
    mark: Option<Mark>,
    /// Their newest id.
    head: u64,
}

impl Witness {
    /// Compares the chain in `own` with the one that was ordered, up to its link `at`. Of a chain of which
    /// something is proven, other zones are asked for at most [`MIDDLE`] links.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn compare(
        &self,
        own: &dyn Database,
        at: Mark,
        is_proven: bool,
    ) -> Result<Compared, ReadError> {
        let (id, digest) = at;
        let Some(Vouched { mark, head }) = self.ask(id, false).await else {
            return Ok(Compared::Unanswered("no coordinator answers".to_owned()));
        };
        let (mark, head) = if head < id {
            // The coordinator may be behind. A head that a majority confirms now is not behind any link that
            // was applied before.
            match self.ask(id, true).await {
                Some(confirmed) => (confirmed.mark, confirmed.head),
                None => {
                    let words =
                        format!("no majority of the coordinators says what is above {head}");
                    return Ok(Compared::Unanswered(words));
                }
            }
        } else {
            (mark, head)
        };
        if let Some((known, due)) = mark {
            let is = if known == id { Some(digest) } else { own_digest(own, known).await? };
            if is != Some(due) {
                return self.contradict(own, known).await;
            }
            if known == id {
                return Ok(Compared::Same);
            }
        }
        if head < id {
            return Ok(Compared::Unproved(format!(
                "this zone has links up to {id}, and the newest link that was ordered is {head}"
            )));
        }
        let known = mark.map_or(0, |(known, _)| known);
        if is_proven && id - known > MIDDLE {
            return Ok(Compared::Unproved("no coordinator remembers this link".to_owned()));
        }
        self.by_zones(own, known, at).await
    }

    /// Judges a link that differs from a coordinator's: a majority decides.
    async fn contradict(&self, own: &dyn Database, id: u64) -> Result<Compared, ReadError> {
        let Some(due) = self.by_majority(id).await else {
            let words = format!(
                "a coordinator has another link {id} than this zone, and no majority of them \
                 has confirmed it yet"
            );
            return Ok(Compared::Unproved(words));
        };
        let is = own_digest(own, id).await?;
        let changed = || Compared::Unproved("it changed while it was compared".to_owned());
        if is == Some(due) || own.face().await?.id < id {
            return Ok(changed());
        }
        let is = is.map_or("none".to_owned(), |digest| digest.to_string());
        tracing::error!(id, %due, is, "majority has another link");
        Ok(Compared::Other(fork(id, due, is)))
    }

    /// Whether link `at` of `own` is the one that was ordered, which no coordinator remembers, though all
    /// remember the ones at `known` and somewhere above: a zone whose links lead from the one to
    /// the other shows what is between.
    async fn by_zones(
        &self,
        own: &dyn Database,
        known: u64,
        at: Mark,
    ) -> Result<Compared, ReadError> {
        let unproved = |why: &str| Ok(Compared::Unproved(why.to_owned()));
        let Some(to) = self.next_mark(at.0).await else {
            return unproved("no coordinator says what comes next");
        };
        let from = match WriteId::try_from(known) {
            Err(_) => None,
            Ok(id) => match own.link(id).await? {
                (Some(link), _) => Some(head_of(&link)),
                (None, _) => return unproved("it changed while it was compared"),
            },
        };
        let Some(between) = self.read_between(from, to).await else {
            return unproved(
                "no coordinator remembers its newest link, and no other zone that answers shows it",
            );
        };
        let place = usize::try_from(at.0 - known - 1).unwrap_or(usize::MAX);
        Ok(match between.get(place) {
            Some(due) if *due == at.1 => Compared::Same,
            Some(due) => Compared::Other(fork(at.0, *due, at.1)),
            None => Compared::Unproved("the zones that answer have less".to_owned()),
        })
    }

    /// The newest link at or below `id` that the coordinators know.
    pub(crate) async fn mark(&self, id: u64) -> Option<Mark> {
        self.ask(id, false).await?.mark
    }

    /// The first link at or above `id` that the coordinators know, as far as their marks tell.
    async fn next_mark(&self, id: u64) -> Option<Mark> {
        let candidates = [id, id.next_multiple_of(MIDDLE), id.next_multiple_of(COARSEST), u64::MAX];
        for candidate in candidates {
            let mark = self.mark(candidate).await;
            if let Some(mark) = mark.filter(|(known, _)| *known >= id) {
                return Some(mark);
            }
        }
        None
    }

    /// Asks the coordinator in place `place` for link `id`; `None` when it does not answer.
    async fn vouch(&self, place: usize, id: u64, confirmed: bool) -> Option<Vouched> {
        let mut request = tonic::Request::new(VouchRequest { ids: vec![id], confirmed });
        let limit = if confirmed { CONFIRM_MAX } else { ANSWER_MAX };
        request.set_timeout(limit);
        let mut client = self.coordinators.client(place);
        let reply = timeout(limit, client.vouch(request)).await.ok()?.ok()?.into_inner();
        let mark = reply.links.first().filter(|link| link.id != 0 && link.id <= id);
        let mark = mark.and_then(|link| Some((link.id, Digest(link.digest[..].try_into().ok()?))));
        Some(Vouched { mark, head: reply.head })
    }

    /// Asks the coordinators in turn until one answers that is at `id`, else what the furthest
    /// answered; `confirmed`: by a majority.
    async fn ask(&self, id: u64, confirmed: bool) -> Option<Vouched> {
        let mut furthest: Option<Vouched> = None;
        for place in self.coordinators.in_order() {
            let Some(vouched) = self.vouch(place, id, confirmed).await else { continue };
            if vouched.head >= id {
                return Some(vouched);
            }
            if furthest.as_ref().is_none_or(|known| known.head < vouched.head) {
                furthest = Some(vouched);
            }
        }
        furthest
    }

    /// The digest of link `id` on which the coordinators agree that know it, once most of them have answered
    /// and compared their chains with a head that a majority confirmed.
    async fn by_majority(&self, id: u64) -> Option<Digest> {
        let asked =
            self.coordinators.in_order().into_iter().map(|place| self.vouch(place, id, true));
        let vouched: Vec<Vouched> = join_all(asked).await.into_iter().flatten().collect();
        let mut told = BTreeMap::<Digest, usize>::new();
        for (known, digest) in vouched.iter().filter_map(|vouched| vouched.mark) {
            if known == id {
                *told.entry(digest).or_default() += 1;
            }
        }
        let count: usize = told.values().sum();
        let agreed = told.into_iter().find(|(_, one)| one * 2 > count).map(|(digest, _)| digest);
        agreed.filter(|_| vouched.len() * 2 > self.coordinators.count())
    }

    /// Digests of the links behind `from` up to `to`, as the nearest zone has them whose links lead there.
    async fn read_between(&self, from: Option<Head>, to: Mark) -> Option<Vec<Digest>> {
        for source in self.views.sources(&self.identity.zone) {
            let peer = Peer::new(self.http.clone(), &source.url);
            match timeout(BETWEEN_TIME_MAX, self.read(&peer, &source, from, to)).await {
                Ok(Ok(digests)) => return Some(digests),
                Ok(Err(why)) => tracing::warn!(zone = source.zone, why, "witness zone failed"),
                Err(_) => tracing::warn!(zone = source.zone, "witness zone too slow"),
            }
        }
        None
    }

    async fn read(
        &self,
        peer: &Peer,
        source: &Source,
        from: Option<Head>,
        to: Mark,
    ) -> Result<Vec<Digest>, String> {
        let first = from.map_or(0, |head| head.id.get());
        if source.frontier < to.0 {
            return Err(format!("it has {} and not yet {}", source.frontier, to.0));
        }
        if to.0 - first > BETWEEN_MAX {
            return Err(format!("{} links are too many", to.0 - first));
        }
        let (mut head, mut digests) = (from, Vec::new());
        while head.map_or(0, |head| head.id.get()) < to.0 {
            let after = head.map_or(0, |head| head.id.get());
            let mut page = peer.page(after).await.map_err(|error| describe(&error))?;
            page.retain(|link| link.id <= to.0);
            let links = follow(&self.identity.cluster, head, page);
            let links = links.map_err(|violation| format!("it does not follow: {violation}"))?;
            digests.extend(links.iter().map(|link| link.digest));
            head = Some(head_of(links.last().ok_or("it has no more")?));
        }
        match digests.last() {
            Some(last) if *last == to.1 => Ok(digests),
            _ => Err(format!("its link {} is not the one that was ordered", to.0)),
        }
    }
}

impl Reference for Witness {
    fn known(&self, id: u64) -> BoxFuture<'_, Option<Mark>> {
        Box::pin(async move { self.ask(id, true).await?.mark })
    }

    fn between(&self, from: Option<Head>, id: u64) -> BoxFuture<'_, Option<Vec<Digest>>> {
        Box::pin(async move {
            let to = self.next_mark(id).await?;
            self.read_between(from, to).await
        })
    }
}

fn fork(id: u64, due: Digest, is: impl std::fmt::Display) -> Violation {
    Violation::new(id.cast_signed(), ViolationKind::Fork, due, is)
}

pub(crate) fn head_of(link: &Link) -> Head {
    let Link { id, hash, digest, written_at, .. } = *link;
    Head { id, hash, digest, written_at }
}

/// The digest of link `id` of a database; `None` when there is none that can be read.
pub(crate) async fn own_digest(own: &dyn Database, id: u64) -> Result<Option<Digest>, ReadError> {
    let Ok(id) = WriteId::try_from(id) else { return Ok(None) };
    match own.digest(id).await {
        Ok(digest) => Ok(digest),
        Err(error) if error.changed_link().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
