//! The zones' chains by themselves: gapless, equal, and computed by the formulae.

use std::num::NonZero;
use std::thread;

use pghc_api::chain::{link_digest, link_hash};
use pghc_api::id::{ClusterId, WriteId};

use crate::history::{Chain, Link};
use crate::report::{Kind, Report};

/// Below this many links a second thread costs more than it saves.
const LINKS_PER_THREAD_MIN: usize = 10_000;

/// The links before the first gap.
fn gapless(links: &[Link]) -> &[Link] {
    let gap = links.iter().zip(1..).position(|(link, id)| link.id != id);
    &links[..gap.unwrap_or(links.len())]
}

/// The longest gapless chain; of equal ones, the first.
pub(crate) fn longest(zones: &[Chain]) -> &[Link] {
    let mut longest: &[Link] = &[];
    for zone in zones {
        let links = gapless(&zone.links);
        if links.len() > longest.len() {
            longest = links;
        }
    }
    longest
}

/// I1: ids are 1, 2, 3, … in every zone.
pub(crate) fn dense(zones: &[Chain], report: &mut Report) {
    for zone in zones {
        let position = gapless(&zone.links).len();
        if let Some(link) = zone.links.get(position) {
            let wanted = position as u64 + 1;
            let sentence = format!("zone {} has id {} where {wanted} belongs", zone.zone, link.id);
            report.add(Kind::NotDense, wanted, &[], sentence);
        }
    }
}

/// I3: what two zones hold under one id is the same.
pub(crate) fn agree(zones: &[Chain], chain: &[Link], report: &mut Report) {
    for zone in zones {
        let links = gapless(&zone.links);
        if std::ptr::eq(links.as_ptr(), chain.as_ptr()) {
            continue;
        }
        if let Some((here, there)) = links.iter().zip(chain).find(|(here, there)| here != there) {
            let sentence = format!(
                "zone {} holds another link {} than the longest chain: {here:?} and not {there:?}",
                zone.zone, here.id
            );
            report.add(Kind::Fork, here.id, &[], sentence);
        }
    }
}

/// After healing, every zone is where the farthest is.
pub(crate) fn converged(zones: &[Chain], report: &mut Report) {
    let newest = |zone: &Chain| zone.links.last().map_or(0, |link| link.id);
    let farthest = zones.iter().map(newest).max().unwrap_or(0);
    for zone in zones {
        let reached = newest(zone);
        if reached < farthest {
            let sentence = format!("zone {} ended at {reached}, another at {farthest}", zone.zone);
            report.add(Kind::NotConverged, reached + 1, &[], sentence);
        }
    }
}

/// Checks that every link follows from the one before it. Each link is checked against its
/// unchecked predecessor, so all pieces can be checked at once; the first wrong link of each kind
/// counts.
pub(crate) fn formulae(chain: &[Link], cluster: &ClusterId) -> Report {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let piece = chain.len().div_ceil(threads).max(LINKS_PER_THREAD_MIN);
    let mut wrong: Vec<(Kind, u64)> = thread::scope(|scope| {
        let starts = (0..chain.len()).step_by(piece);
        let spawn = |from: usize| {
            let to = (from + piece).min(chain.len());
            scope.spawn(move || piece_formulae(&chain[..to], from, cluster))
        };
        let pieces: Vec<_> = starts.map(spawn).collect();
        let found = pieces.into_iter().flat_map(|piece| {
            piece.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        found.collect()
    });
    wrong.sort_unstable();
    wrong.dedup_by_key(|(kind, _)| *kind);
    let mut report = Report::default();
    for (kind, id) in wrong {
        let sentence = match kind {
            Kind::WrongHash => "has a hash that does not follow from the link before it",
            Kind::WrongDigest => "has a digest that its content does not have",
            _ => "was written before the link before it",
        };
        report.add(kind, id, &[], format!("link {id} {sentence}, the first of its kind"));
    }
    report
}

/// First wrong id of each kind from position `from` on.
fn piece_formulae(chain: &[Link], from: usize, cluster: &ClusterId) -> Vec<(Kind, u64)> {
    let [mut hash, mut digest, mut time] = [None; 3];
    for at in from..chain.len() {
        let link = &chain[at];
        let before = at.checked_sub(1).map(|before| &chain[before]);
        let Ok(id) = WriteId::try_from(link.id) else { continue };
        if hash.is_none() && link_hash(id, &link.node, before.map(|b| b.hash)) != link.hash {
            hash = Some((Kind::WrongHash, link.id));
        }
        let right = |payload| {
            let before = before.map(|before| before.digest);
            link_digest(cluster, id, &link.node, link.written_at, payload, before)
        };
        if digest.is_none() && right(link.payload) != link.digest {
            digest = Some((Kind::WrongDigest, link.id));
        }
        if time.is_none() && before.is_some_and(|before| before.written_at > link.written_at) {
            time = Some((Kind::TimeWentBack, link.id));
        }
    }
    [hash, digest, time].into_iter().flatten().collect()
}
