//! Backfill: copies missing links from another zone, where no coordinator's log reaches back to this
//! zone's frontier.
//!
//! Invariant: nothing is appended to a chain that is not proven, nor from a zone that does not show
//! a digest which the coordinators vouch for. Every link is recomputed from this zone's own head on, and
//! what is passed on leads to such a digest, except between marks that lie further apart than is held
//! back; there the next mark decides. Which source, and for how long, is decided here; the tail decides
//! when to backfill.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::{Head, Link};
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::telemetry::describe;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::peer::Peer;
use super::plan::follow;
use super::tail_event::TailEvent;
use crate::zone::audit::witness::{Compared, Mark, Witness, head_of};
use crate::zone::database::Database;
use crate::zone::node_state::{BackfillProgress, NodeState};
use crate::zone::reports::views::Source;

/// How long a source is left alone after it failed.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// Longest turn, after which the coordinators are asked again, unless they say how far back their
/// logs reach.
const TURN_MAX: Duration = Duration::from_secs(2);

/// Time between two log lines of a running backfill.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Links passed on at a time, and their payload bytes: what waits for the applier is bounded by this
/// and by the queue's length.
const PIECE_LINKS: usize = 250;
const PIECE_BYTES: usize = 256 << 10;

/// Links held back until a mark vouches for them, and their payload bytes.
const HELD_LINKS: usize = 4_096;
const HELD_BYTES: usize = 16 << 20;

/// How a turn of the backfill ended.
pub(crate) enum BackfillResult {
    /// The applier has dropped its end of the queue.
    Unread,
    /// Links were passed on; the coordinators may reach back to the head now.
    GotOn,
    /// No source can help at the moment, for this reason.
    Stuck(String),
    /// This zone's own chain is not the one that was ordered.
    Refused(String),
}

enum ReadEnd {
    Unread,
    /// The source has no more that is vouched for, or the log reaches back.
    Done,
    Failed(String),
    /// As [`BackfillResult::Refused`].
    Refused(String),
}

/// Fills one zone; lives as long as its tail.
pub(crate) struct Backfill {
    witness: Witness,
    own: Arc<dyn Database>,
    node_state: Arc<NodeState>,
    /// Whether this zone's chain was compared up to where it is filled on.
    is_proven: bool,
    /// Sources that failed, by URL, and when.
    failed: BTreeMap<String, Instant>,
    /// Since when and from which id on it fills; `None` while it does not.
    began: Option<(Instant, u64)>,
    logged: Option<Instant>,
}

/// Links of a source that follow, and are not passed on yet.
#[derive(Default)]
struct Held {
    links: Vec<Link>,
    bytes: usize,
    /// Whether links before these were passed on that no mark has vouched for yet.
    is_behind_unproven: bool,
}

impl Held {
    fn push(&mut self, links: Vec<Link>) {
        self.bytes += links.iter().map(payload_bytes).sum::<usize>();
        self.links.extend(links);
    }

    fn head(&self) -> Option<Head> {
        self.links.last().map(head_of)
    }

    /// Returns the links to pass on, when the coordinators know `mark` at or below the newest link; all of them
    /// when too much is held.
    fn release(&mut self, mark: Option<Mark>) -> Result<Vec<Link>, Unordered> {
        let first = self.links.first().map_or(u64::MAX, |link| link.id.get());
        let place = mark.and_then(|(id, _)| usize::try_from(id.checked_sub(first)?).ok());
        let vouched = match (place.and_then(|place| self.links.get(place)), mark) {
            (Some(link), Some((id, due))) if link.digest != due => return Err(Unordered(id)),
            (Some(_), _) => place.map_or(0, |place| place + 1),
            (None, _) => 0,
        };
        let is_full = self.links.len() >= HELD_LINKS || self.bytes >= HELD_BYTES;
        let count = if vouched == 0 && is_full { self.links.len() } else { vouched };
        self.is_behind_unproven = count > vouched || (self.is_behind_unproven && vouched == 0);
        let released: Vec<Link> = self.links.drain(..count).collect();
        self.bytes -= released.iter().map(payload_bytes).sum::<usize>();
        Ok(released)
    }
}

/// A source's link with this id is not the one that was ordered.
#[derive(Debug, PartialEq, Eq)]
struct Unordered(u64);

impl Backfill {
    pub(crate) fn new(
        witness: Witness,
        own: Arc<dyn Database>,
        node_state: Arc<NodeState>,
    ) -> Self {
        let failed = BTreeMap::new();
        Self { witness, own, node_state, is_proven: false, failed, began: None, logged: None }
    }

    /// Reads from the best source behind `head`, which moves with what was passed on.
    pub(crate) async fn run_once(
        &mut self,
        head: &mut Option<Head>,
        out: &mpsc::Sender<TailEvent>,
    ) -> BackfillResult {
        if let Some(result) = self.prove(*head).await {
            return result;
        }
        let after = head.map_or(0, |head| head.id.get());
        self.failed.retain(|_, at| at.elapsed() < FAILED_PAUSE);
        let mut why = "no zone that is well and further has told where to read it".to_owned();
        let views = &self.witness.views;
        for source in rank(views.sources(&self.witness.identity.zone), after, views.log_first()) {
            if self.failed.contains_key(&source.url) {
                continue;
            }
            let mut held = Held::default();
            let ended = self.read(&source, head, out, &mut held).await;
            // Links that were passed on must be compared before more follow.
            self.is_proven &= !held.is_behind_unproven;
            match ended {
                ReadEnd::Unread => return BackfillResult::Unread,
                ReadEnd::Done => return BackfillResult::GotOn,
                ReadEnd::Refused(why) => return BackfillResult::Refused(why),
                ReadEnd::Failed(error) => {
                    tracing::warn!(zone = source.zone, url = source.url, error, "source failed");
                    why = format!("zone {} at {}: {error}", source.zone, source.url);
                    self.failed.insert(source.url, Instant::now());
                }
            }
        }
        self.node_state.set_backfill(None);
        BackfillResult::Stuck(why)
    }

    /// Compares this zone's own chain before links are appended; `None` once it is proven. A forged chain
    /// may be the reason for which no log reaches back.
    async fn prove(&mut self, head: Option<Head>) -> Option<BackfillResult> {
        let Some(head) = head else {
            self.is_proven = true;
            return None;
        };
        if self.is_proven {
            return None;
        }
        let at = (head.id.get(), head.digest);
        match self.witness.compare(self.own.as_ref(), at, false).await {
            Ok(Compared::Same) => self.is_proven = true,
            Ok(Compared::Other(violation)) => {
                return Some(BackfillResult::Refused(violation.to_string()));
            }
            Ok(Compared::Unproved(why) | Compared::Unanswered(why)) => {
                let words = format!("its own chain could not be compared: {why}");
                return Some(BackfillResult::Stuck(words));
            }
            Err(error) => return Some(BackfillResult::Stuck(describe(&error))),
        }
        None
    }

    /// Returns the newest link for which the coordinators vouch, if `source` has it: reads go up to there.
    async fn vouched(&self, peer: &Peer, source: &Source, after: u64) -> Result<u64, String> {
        if mutation::is_active(Mutant::SourceNotConfirmed) {
            return Ok(source.frontier);
        }
        let mark = self.witness.mark(source.frontier).await;
        let Some((upto, due)) = mark.filter(|(upto, _)| *upto > after) else {
            return Err(format!("no coordinator vouches for a link of it above {after}"));
        };
        match peer.digest(upto).await {
            Ok(digest) if digest == due => Ok(upto),
            Ok(_) => Err(format!("its link {upto} is not the one that was ordered")),
            Err(error) => Err(describe(&error)),
        }
    }

    /// The newest of the links that are held for which the coordinators vouch.
    async fn mark(&self, last: u64, held: &Held) -> Option<Mark> {
        if mutation::is_active(Mutant::SourceNotConfirmed) {
            return held.head().map(|head| (head.id.get(), head.digest));
        }
        self.witness.mark(last).await
    }

    /// Reads `source` until the log reaches back, the source has no more, or the turn is over. The
    /// next page is fetched while the one before is checked and passed on.
    async fn read(
        &mut self,
        source: &Source,
        head: &mut Option<Head>,
        out: &mpsc::Sender<TailEvent>,
        held: &mut Held,
    ) -> ReadEnd {
        let peer = Peer::new(self.witness.http.clone(), &source.url);
        let until = Instant::now() + TURN_MAX;
        let after = head.map_or(0, |head| head.id.get());
        let upto = match self.vouched(&peer, source, after).await {
            Ok(upto) => upto,
            Err(why) => return ReadEnd::Failed(why),
        };
        let mut page = match peer.page(after).await {
            Ok(page) => page,
            Err(error) => return ReadEnd::Failed(describe(&error)),
        };
        loop {
            page.retain(|link| link.id <= upto);
            let Some(last) = page.last().map(|link| link.id) else {
                return ReadEnd::Failed(format!("it has no links up to {upto} any longer"));
            };
            self.progress(source, head.as_ref());
            let before = held.head().or(*head);
            match follow(&self.witness.identity.cluster, before, std::mem::take(&mut page)) {
                Ok(links) => held.push(links),
                Err(violation) => {
                    return ReadEnd::Failed(format!("what it has does not follow: {violation}"));
                }
            }
            failpoint::pass(Point::FillChecked);
            let mark = self.mark(last, held).await;
            let links = match held.release(mark) {
                Ok(links) => links,
                Err(Unordered(id)) => return unordered(id, held.is_behind_unproven),
            };
            let next = async { if last < upto { peer.page(last).await } else { Ok(Vec::new()) } };
            let (passed, next) = tokio::join!(pass(links, !held.is_behind_unproven, out), next);
            let Some(passed) = passed else { return ReadEnd::Unread };
            failpoint::pass(Point::FillPassed);
            *head = passed.or(*head);
            let at = head.map_or(0, |head| head.id.get());
            let reaches = self.witness.views.log_first().map(|first| first <= at + 1);
            let is_over = reaches == Some(true) || (reaches.is_none() && Instant::now() >= until);
            if (is_over && !held.is_behind_unproven) || last >= upto {
                return ReadEnd::Done;
            }
            page = match next {
                Ok(page) => page,
                Err(error) => return ReadEnd::Failed(describe(&error)),
            };
        }
    }

    fn progress(&mut self, source: &Source, head: Option<&Head>) {
        let at = head.map_or(0, |head| head.id.get());
        if self.node_state.backfill().is_none() {
            self.began = None;
        }
        let (since, first) = *self.began.get_or_insert_with(|| {
            tracing::info!(zone = source.zone, url = source.url, after_id = at, "backfill began");
            (Instant::now(), at + 1)
        });
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = (at + 1 - first) as f64 / since.elapsed().as_secs_f64().max(0.001);
        let target = self.witness.views.head();
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_PERIOD) {
            let left = target.saturating_sub(at);
            tracing::info!(zone = source.zone, at, left, ids_per_second = rate, "backfilling");
            self.logged = Some(Instant::now());
        }
        let zone = source.zone.clone();
        self.node_state.set_backfill(Some(BackfillProgress { zone, at, target, rate }));
    }
}

/// Ends the reading of a source whose link `id` is not the ordered one.
fn unordered(id: u64, is_behind_unproven: bool) -> ReadEnd {
    let words =
        format!("link {id} as it was read from another zone is not the one that was ordered");
    if is_behind_unproven { ReadEnd::Refused(words) } else { ReadEnd::Failed(words) }
}

fn payload_bytes(link: &Link) -> usize {
    link.payload.as_ref().map_or(0, |payload| payload.len())
}

/// Passes links on in pieces, vouched for by the coordinators or not. Returns the head behind them, if
/// there are any; `None` when the applier has gone.
async fn pass(
    links: Vec<Link>,
    is_vouched: bool,
    out: &mpsc::Sender<TailEvent>,
) -> Option<Option<Head>> {
    let head = links.last().map(head_of);
    let mut piece = Vec::with_capacity(PIECE_LINKS);
    let mut bytes = 0;
    let mut links = links.into_iter().peekable();
    while let Some(link) = links.next() {
        bytes += payload_bytes(&link);
        piece.push(link);
        if piece.len() == PIECE_LINKS || bytes >= PIECE_BYTES || links.peek().is_none() {
            let links = std::mem::take(&mut piece);
            out.send(TailEvent::Links { links, is_vouched }).await.ok()?;
            bytes = 0;
        }
    }
    Some(head)
}

/// Sources ahead of `after`, best first: those from which the log can take over come before those
/// that only get nearer to it, and among equals the nearest.
fn rank(sources: Vec<Source>, after: u64, log_first: Option<u64>) -> Vec<Source> {
    let enough = log_first.unwrap_or(0).saturating_sub(1);
    let mut ahead: Vec<Source> = sources.into_iter().filter(|s| s.frontier > after).collect();
    // Stable: the nearest stay first.
    ahead.sort_by_key(|source| source.frontier < enough);
    ahead
}

#[cfg(test)]
mod tests {
    use pghc_api::chain::{Digest, Link, LinkHash};
    use pghc_api::id::WriteId;
    use pghc_api::time::Micros;

    use super::{HELD_LINKS, Held, Unordered, rank};
    use crate::zone::reports::views::Source;

    fn link(id: u64) -> Link {
        let mut digest = Digest::default();
        digest.0[..8].copy_from_slice(&id.to_be_bytes());
        Link {
            id: WriteId::try_from(id).expect("not 0"),
            node: "eu-1".parse().expect("a name"),
            hash: LinkHash::default(),
            digest,
            written_at: Micros(0),
            payload: None,
        }
    }

    fn released(held: &mut Held, mark: Option<u64>) -> Result<Vec<u64>, Unordered> {
        let links = held.release(mark.map(|id| (id, link(id).digest)))?;
        Ok(links.iter().map(|link| link.id.get()).collect())
    }

    #[test]
    fn links_are_held_until_a_mark_vouches_for_them() {
        let mut held = Held::default();
        held.push((11..=15).map(link).collect());
        assert_eq!(released(&mut held, None), Ok(vec![]));
        assert_eq!(released(&mut held, Some(10)), Ok(vec![]), "a mark before all of them");
        assert_eq!(released(&mut held, Some(13)), Ok(vec![11, 12, 13]));
        assert_eq!(held.release(Some((15, link(1).digest))), Err(Unordered(15)));
        assert_eq!(released(&mut held, Some(15)), Ok(vec![14, 15]));
        assert!(held.links.is_empty() && !held.is_behind_unproven);
    }

    #[test]
    fn no_more_is_held_than_a_bounded_number_of_links() {
        let mut held = Held::default();
        let last = HELD_LINKS as u64;
        held.push((1..last).map(link).collect());
        assert_eq!(released(&mut held, None), Ok(vec![]));
        held.push(vec![link(last)]);
        assert_eq!(released(&mut held, None).map(|ids| ids.len()), Ok(HELD_LINKS));
        assert!(held.is_behind_unproven);
        held.push(vec![link(last + 1)]);
        assert_eq!(released(&mut held, None), Ok(vec![]));
        assert!(held.is_behind_unproven, "nothing has vouched for them yet");
        assert_eq!(released(&mut held, Some(last + 1)), Ok(vec![last + 1]));
        assert!(!held.is_behind_unproven);
    }

    #[test]
    fn nearest_source_that_meets_the_log_is_asked_first() {
        let source = |zone: &str, frontier| Source {
            zone: zone.to_owned(),
            url: format!("http://{zone}"),
            frontier,
        };
        let sources = vec![source("near", 40), source("mid", 90), source("far", 100)];
        let order = |after, log_first| {
            let ranked = rank(sources.clone(), after, log_first);
            ranked.into_iter().map(|source| source.zone).collect::<Vec<_>>()
        };
        assert_eq!(order(10, Some(80)), ["mid", "far", "near"]);
        assert_eq!(order(10, None), ["near", "mid", "far"]);
        assert_eq!(order(40, Some(95)), ["far", "mid"]);
        assert!(order(100, None).is_empty());
    }
}
