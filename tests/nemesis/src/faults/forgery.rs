//! Somebody rewrites the newest links of a zone, sound in themselves, and with them the frontier: both
//! `chain-verify` and the zone itself must name the first of them, and a re-seed must heal it: I10.

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use pghc_history::Reset;

use super::replica::{APPLIED, number};
use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::{Sql, View};

/// How many links are rewritten: often the newest alone, which nothing follows that could disagree.
const LINKS: [i64; 4] = [1, 1, 4, 12];
/// Links that there must be first.
const LINKS_MIN: i64 = 24;
/// Longest time until a new cluster has so many.
const LINKS_AFTER: Duration = Duration::from_secs(60);
/// Longest time until the zone has stopped serving what was rewritten.
const FENCED_MAX: Duration = Duration::from_secs(60);
/// Longest time for which a refused re-seed is repeated.
const RESEEDED_MAX: Duration = Duration::from_secs(30);
/// Longest time until a re-seeded zone has all that it had.
const REFILLED_MAX: Duration = Duration::from_secs(120);

pub(super) fn classes() -> Vec<Class> {
    vec![Class {
        name: "chain-rewrite",
        number: "I10",
        reduced: true,
        hold_ms: (0, 500),
        aim: Aim::Any,
        needs: Needs::Zone,
        weight: 1,
        run: |s| forged(s).boxed_local(),
    }]
}

/// The zone's nodes are down meanwhile: a restart is no way around the fence.
async fn forged(scene: Scene) -> Outcome {
    let (zone, nodes, book) = (scene.zone, &scene.zone().api, &scene.load.book);
    let sql = scene.database().await?;
    let filled = until("the zone has links to rewrite", LINKS_AFTER, async || {
        number(&sql, APPLIED).await.filter(|applied| *applied > LINKS_MIN)
    });
    filled.await?;
    let started = book.now();
    let mut ended = Ok(());
    for unit in nodes {
        ended = ended.and(unit.end(Signal::SIGTERM).await.map(drop));
    }
    let forged = rewritten(&scene, &sql).await;
    let verified = match &forged {
        Ok((first, _)) => scene.cluster.finds(zone, *first).await,
        Err(_) => Ok(()),
    };
    scene.hold().await;
    for unit in nodes {
        ended = ended.and(unit.start().await);
    }
    ended?;
    let (first, had) = forged?;
    let fenced = fenced(&scene, first).await;
    let fenced_at = book.now();
    // Whatever was noticed, the zone gets its chain back.
    let reseeded = reseeded(&scene).await;
    let refilled = until("the zone has what it had", REFILLED_MAX, async || {
        let sql = scene.cluster.sql(zone).await.ok()?;
        number(&sql, APPLIED).await.filter(|applied| *applied >= had)
    });
    let refilled = refilled.await;
    let ended = book.now();
    book.forgive(Reset { zone: u16::try_from(zone)?, started, ended }, fenced_at);
    let (refilled, seconds) = (refilled?, (ended - started) / 1_000_000_000);
    verified?;
    fenced?;
    reseeded?;
    Ok(format!(
        "links {first} to {had} rewritten, both found that; re-seeded to {refilled}, {seconds} s"
    ))
}

/// Has the zone filled anew, as an operator does who repeats what was refused; at last by force, so that
/// the run can go on to its end.
async fn reseeded(scene: &Scene) -> anyhow::Result<()> {
    let mut refusal = None;
    let done = until("pghc zone reseed is done", RESEEDED_MAX, async || {
        let done = scene.cluster.reseed(scene.zone, &[]).await;
        done.map_err(|error| refusal = Some(error)).ok()
    });
    let Err(late) = done.await else { return Ok(()) };
    scene.cluster.reseed(scene.zone, &["--force"]).await?;
    Err(refusal.map_or(late, |error| error.context("refused for too long")))
}

/// Rewrites the newest links. Answers the first and the last of them.
async fn rewritten(scene: &Scene, sql: &Sql) -> anyhow::Result<(i64, i64)> {
    let had = number(sql, APPLIED).await.context("the zone's frontier")?;
    let first = had - LINKS[usize::try_from((scene.dice >> 4) % 4)?] + 1;
    let rewrite = include_str!("../../../rewrite.sql").replace(":first", &first.to_string());
    sql.batch(&rewrite).await?;
    Ok((first, had))
}

/// Waits until every node of the zone refuses to serve and names the first rewritten link.
async fn fenced(scene: &Scene, first: i64) -> anyhow::Result<()> {
    let said = format!("the first bad id is {first} (");
    for node in 0..scene.zone().api.len() {
        let address = scene.cluster.ground.api(scene.zone, node);
        let halted = until("the zone names the first bad id", FENCED_MAX, async || {
            View::refusal(address).await.filter(|refusal| refusal.contains(&said))
        });
        halted.await?;
    }
    Ok(())
}
