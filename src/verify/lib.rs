//! Reads zones and proves or refutes their chains.
//!
//! Every source (a zone's PostgreSQL, an API node, an export file) is frozen at one standing and
//! checked link by link; then the sources are compared with each other. Three rules keep the
//! conclusion honest:
//!
//! - Only links that were read and that have a second witness are called proved: a single zone can
//!   be cut or rewritten from some link on without a trace in itself.
//! - A zone that is behind is no violation; it is given a moment to catch up, and if it does not, the
//!   result is incomplete. So a cut tail is found whether or not its frontier was rewritten too.
//! - A zone whose own frontier and rows disagree is a violation.
//!
//! Zones that were all forged alike do not contradict each other, but the coordinators contradict
//! them. When coordinators are given, only links that they vouch for are called proved.
//!
//! This module writes nothing anywhere.

mod api;
mod check;
mod compare;
mod conclusion;
mod coordinator;
mod database;
mod export;
mod extract;
mod foreign;
mod fork;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod plan;
mod progress;
mod reading;
mod record;
mod report;
mod request;
mod source;
#[cfg(test)]
mod tampering;

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

pub use compare::Seen;
pub use extract::{Begun, Extract, ExtractError, Extracted, begun, extract};
pub use progress::{Lane, Progress};
pub use report::{Comparison, Conclusion, Difference, Newest, Rejoined, Report, ZoneReport};
pub use request::{Range, Request, UsageError};
pub use source::Place;

use coordinator::{Coordinators, Heard};
use pghc_runtime::task::Tasks;
use plan::{Plan, Zone};

/// Verifies; bounded by the length of the chain and the time-outs of the sources.
///
/// # Errors
/// If the request makes no sense. Everything else is in the report.
pub async fn run(
    request: Request,
    progress: Arc<Progress>,
    tasks: &Tasks,
) -> Result<Report, UsageError> {
    let started = Instant::now();
    let opening = request.sources.iter().cloned().map(|(name, place)| {
        let tasks = tasks.clone();
        Box::pin(async move { Zone::open(name, &place, &tasks).await }) as BoxFuture<'static, _>
    });
    let zones = in_parallel(tasks, opening.collect()).await;
    let (zones, cluster) = plan::agree(zones, &request)?;

    let coordinators = cluster.as_ref().map(|id| Coordinators::new(id, &request.coordinators));
    let coordinators = coordinators.filter(|_| !request.coordinators.is_empty());
    let begun = match &coordinators {
        Some(coordinators) => Some(coordinators.ask(&[]).await),
        None if request.coordinators.is_empty() => None,
        None => Some(Heard::nothing(
            "no source says of which cluster its chain is, so the coordinators were not asked",
        )),
    };
    let ordered = begun.as_ref().and_then(|heard| heard.head);
    let target = plan::target(&zones, &request, ordered);
    let wait = request.wait;
    let freezing = zones.into_iter().map(|zone| {
        Box::pin(async move { zone.freeze(target, wait).await }) as BoxFuture<'static, _>
    });
    let zones = in_parallel(tasks, freezing.collect()).await;

    let mut plan =
        Plan { request, target, cluster, from: 1, grid: None, known: None, heard: begun };
    if let Some(coordinators) = &coordinators {
        // Every link that a zone held before this question was ordered before it.
        let now = coordinators.ask(&plan.ends(&zones)).await;
        plan.heard = Some(now.after(plan.heard.take().unwrap_or_default()));
    }
    plan.settle(&zones);
    let checking = zones.into_iter().map(|zone| {
        let task = plan.task(&zone);
        let lane = progress.lane(&zone.name);
        Box::pin(async move { zone.check(task, &lane).await }) as BoxFuture<'static, _>
    });
    let mut zones: Vec<Zone> = in_parallel(tasks, checking.collect()).await;
    if let (Some(coordinators), Some(heard)) = (&coordinators, &plan.heard) {
        let confronting = zones.into_iter().map(|zone| zone.confront(coordinators, heard));
        zones = futures::future::join_all(confronting).await;
    }
    let comparison = compare_all(&mut zones).await;
    Ok(conclusion::report(&plan, &zones, comparison, started.elapsed()))
}

/// Runs each work as a task of its own, so that they share the cores; returns in their order.
async fn in_parallel<T: Send + 'static>(
    tasks: &Tasks,
    works: Vec<BoxFuture<'static, T>>,
) -> Vec<T> {
    let answers: Vec<_> = works
        .into_iter()
        .map(|work| {
            let (answer, answered) = oneshot::channel();
            tasks.spawn("verify", async move {
                // The receiver is awaited below; it is dropped only with the whole run.
                let _ = answer.send(work.await);
            });
            answered
        })
        .collect();
    let mut results = Vec::with_capacity(answers.len());
    for answered in answers {
        results.push(answered.await.expect("a task answers unless the process is ending"));
    }
    results
}

/// Sources that break in themselves and hold, at the break, the link that another source found sound.
async fn rejoined(zones: &mut [Zone]) -> Vec<Rejoined> {
    let broken: Vec<(usize, u64)> = zones
        .iter()
        .enumerate()
        .filter_map(|(index, zone)| Some((index, zone.broken_at()?)))
        .collect();
    let mut rejoined = Vec::new();
    for (index, id) in broken {
        let Some(own) = zones[index].see_raw(id).await else { continue };
        for (other, zone) in zones.iter_mut().enumerate() {
            let same = match zone.see(id).await {
                Some(seen) if other != index => seen.digest == own.digest,
                _ => false,
            };
            if same {
                let (zone, other) = (own.zone.clone(), zone.name.clone());
                rejoined.push(Rejoined { zone, id, other });
                break;
            }
        }
    }
    rejoined
}

/// Compares every source with the furthest of the sources that begin first, and so all with each
/// other: an export of the newest links only has no lower links to compare.
async fn compare_all(zones: &mut [Zone]) -> Comparison {
    let mut comparison = Comparison::default();
    let checked = |zone: &Zone| zone.sound().is_some();
    let Some(furthest) =
        (0..zones.len()).filter(|index| checked(&zones[*index])).max_by_key(|index| {
            let sound = zones[*index].sound();
            (sound.map(|(from, _)| u64::MAX - from), sound.map(|(_, to)| to), usize::MAX - index)
        })
    else {
        return comparison;
    };
    zones.swap(0, furthest);
    let (reference, others) = zones.split_at_mut(1);
    let reference = &mut reference[0];
    let Some((from, to)) = reference.sound() else { return comparison };
    let mut first: Option<u64> = None;
    for other in others.iter_mut() {
        let Some((other_from, other_to)) = other.sound() else { continue };
        let after = from.max(other_from) - 1;
        let other_to = other_to.min(to);
        if other_to <= after {
            continue;
        }
        match reference.first_difference(other, after, other_to).await {
            Ok(None) => comparison.equal.push((other.name.clone(), after + 1, other_to)),
            Ok(Some(id)) => first = Some(first.map_or(id, |first| first.min(id))),
            Err(error) => comparison.failed.push(format!(
                "{} and {} could not be compared: {error}",
                reference.name, other.name
            )),
        }
    }
    comparison.reference = Some(reference.name.clone());
    if let Some(id) = first {
        let mut difference = Difference { id, ..Difference::default() };
        for zone in zones.iter_mut() {
            difference.seen.extend(zone.see(id).await);
        }
        difference.rejoined = rejoined(zones).await;
        comparison.difference = Some(difference);
    }
    zones.swap(0, furthest);
    comparison
}
