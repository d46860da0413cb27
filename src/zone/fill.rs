//! Filling this zone from another one, where no coordinator's log reaches back to its frontier.
//!
//! Every link is recomputed from this zone's own head on before it is passed on, so a source can
//! refuse but not lie about what follows; and the coordinators confirm the head where the tail takes
//! over. Which source, and for how long, is decided here; the tail decides when to fill.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::{Head, Link};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Identity;
use super::peer::Peer;
use super::plan::follow;
use super::report::{Source, Views};
use super::standing::{Filling, Standing};
use super::tail::Fed;
use crate::failpoint::{self, Point};
use crate::http_client::HttpClient;
use crate::telemetry::describe;

/// How long a source is left alone after it failed.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// Longest turn, after which the coordinators are asked again, unless they say how far back their
/// logs reach.
const TURN_MAX: Duration = Duration::from_secs(2);

/// How often a running fill is logged.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Links passed on at a time, and their payload bytes: what waits for the applier is bounded by this
/// and by the queue's length.
const PIECE_LINKS: usize = 250;
const PIECE_BYTES: usize = 256 << 10;

/// How a turn of filling ended.
pub(super) enum Turn {
    /// Nobody reads any longer.
    Unread,
    /// Links were passed on; the coordinators may reach back to the head now.
    GotOn,
    /// No source can help at the moment, for this reason.
    Stuck(String),
}

enum Ended {
    Unread,
    /// The source has no more, or the log reaches back.
    Done,
    Failed(String),
}

/// Fills one zone; lives as long as its tail.
pub(super) struct Filler {
    http: HttpClient,
    identity: Identity,
    standing: Arc<Standing>,
    views: Arc<Views>,
    /// Sources that failed, by URL, and when.
    failed: BTreeMap<String, Instant>,
    /// Since when and from which id on it fills; `None` while it does not.
    began: Option<(Instant, u64)>,
    logged: Option<Instant>,
}

impl Filler {
    pub(super) fn new(
        http: HttpClient,
        identity: Identity,
        standing: Arc<Standing>,
        views: Arc<Views>,
    ) -> Self {
        let failed = BTreeMap::new();
        Self { http, identity, standing, views, failed, began: None, logged: None }
    }

    /// Reads from the best source behind `head`, which moves with what was passed on.
    pub(super) async fn turn(&mut self, head: &mut Option<Head>, out: &mpsc::Sender<Fed>) -> Turn {
        let after = head.map_or(0, |head| head.id.get());
        self.failed.retain(|_, at| at.elapsed() < FAILED_PAUSE);
        let mut why = "no healthy zone that is further has told where to read it".to_owned();
        for source in rank(self.views.sources(&self.identity.zone), after, self.views.log_first()) {
            if self.failed.contains_key(&source.url) {
                continue;
            }
            match self.read(&source, head, out).await {
                Ended::Unread => return Turn::Unread,
                Ended::Done => return Turn::GotOn,
                Ended::Failed(error) => {
                    tracing::warn!(zone = source.zone, url = source.url, error, "source failed");
                    why = format!("zone {} at {}: {error}", source.zone, source.url);
                    self.failed.insert(source.url, Instant::now());
                }
            }
        }
        self.standing.set_filling(None);
        Turn::Stuck(why)
    }

    /// Reads `source` until the log reaches back, the source has no more, or the turn is over. The
    /// next page is fetched while the one before is checked and passed on.
    async fn read(
        &mut self,
        source: &Source,
        head: &mut Option<Head>,
        out: &mpsc::Sender<Fed>,
    ) -> Ended {
        let peer = Peer::new(self.http.clone(), &source.zone, &source.url);
        let until = Instant::now() + TURN_MAX;
        let mut page = match peer.page(head.map_or(0, |head| head.id.get())).await {
            Ok(page) => page,
            Err(error) => return Ended::Failed(describe(&error)),
        };
        if page.is_empty() {
            let at = head.map_or(0, |head| head.id.get());
            return Ended::Failed(format!("it has nothing above id {at}"));
        }
        while let Some(last) = page.last().map(|link| link.id) {
            self.progress(source, head.as_ref());
            let links = match follow(&self.identity.cluster, *head, std::mem::take(&mut page)) {
                Ok(links) => links,
                Err(violation) => {
                    return Ended::Failed(format!("what it has does not follow: {violation}"));
                }
            };
            failpoint::pass(Point::FillChecked);
            let (passed, next) = tokio::join!(pass(links, out), peer.page(last));
            let Some(newest) = passed else { return Ended::Unread };
            failpoint::pass(Point::FillPassed);
            *head = Some(newest);
            let reaches = self.views.log_first().map(|first| first <= newest.id.get() + 1);
            if reaches == Some(true) || (reaches.is_none() && Instant::now() >= until) {
                return Ended::Done;
            }
            page = match next {
                Ok(page) => page,
                Err(error) => return Ended::Failed(describe(&error)),
            };
        }
        Ended::Done
    }

    fn progress(&mut self, source: &Source, head: Option<&Head>) {
        let at = head.map_or(0, |head| head.id.get());
        if self.standing.filling().is_none() {
            self.began = None;
        }
        let (since, first) = *self.began.get_or_insert_with(|| {
            tracing::info!(zone = source.zone, url = source.url, after_id = at, "filling begins");
            (Instant::now(), at + 1)
        });
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = (at + 1 - first) as f64 / since.elapsed().as_secs_f64().max(0.001);
        let target = self.views.head();
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_PERIOD) {
            let left = target.saturating_sub(at);
            tracing::info!(zone = source.zone, at, left, ids_per_second = rate, "filling");
            self.logged = Some(Instant::now());
        }
        let zone = source.zone.clone();
        self.standing.set_filling(Some(Filling { zone, at, target, rate }));
    }
}

/// Passes links on in pieces; answers the head behind them, `None` when nobody reads any longer.
async fn pass(links: Vec<Link>, out: &mpsc::Sender<Fed>) -> Option<Head> {
    let mut head = None;
    let mut piece = Vec::with_capacity(PIECE_LINKS);
    let mut bytes = 0;
    let mut links = links.into_iter().peekable();
    while let Some(link) = links.next() {
        head = Some(Head {
            id: link.id,
            hash: link.hash,
            digest: link.digest,
            written_at: link.written_at,
        });
        bytes += link.payload.as_ref().map_or(0, |payload| payload.len());
        piece.push(link);
        if piece.len() == PIECE_LINKS || bytes >= PIECE_BYTES || links.peek().is_none() {
            out.send(Fed::Links(std::mem::take(&mut piece))).await.ok()?;
            bytes = 0;
        }
    }
    head
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
    use super::rank;
    use crate::zone::report::Source;

    #[test]
    fn the_nearest_source_from_which_the_log_takes_over_is_asked_first() {
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
