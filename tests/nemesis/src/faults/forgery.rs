//! A superuser rewrites links of a zone and all later ones, sound in themselves, together with the
//! frontier: the newest links while its nodes are down, or links below every coordinator's log
//! while they run. Both `chain-verify` and the zone itself must name the first of them, and a
//! reseed must repair the zone: I10.

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::join_all;
use nix::sys::signal::Signal;
use pghc_history::Reset;

use super::replica::{APPLIED, number};
use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::{FOUND_MAX, Sql, View, ZONES};

/// How many links are rewritten: often the newest alone, which nothing follows that could disagree.
const LINKS: [i64; 4] = [1, 1, 4, 12];
/// Links that there must be first.
const LINKS_MIN: i64 = 24;
/// Longest time until a new cluster has enough links.
const LINKS_AFTER: Duration = Duration::from_secs(60);
/// Longest time until the zone has stopped serving what was rewritten.
const FENCED_MAX: Duration = Duration::from_secs(60);
/// Longest time until the coordinators of a new cluster have purged something.
const PURGED_MAX: Duration = Duration::from_secs(90);
/// Longest time until a running zone that was rewritten answers no read any longer.
const REFUSED_MAX: Duration = Duration::from_secs(10);
/// Longest time for which a refused re-seed is repeated.
const RESEEDED_MAX: Duration = Duration::from_secs(30);
/// Longest time until a reseeded zone has its links again under load: on a busy machine other zones
/// are slow to serve them. After that the load pauses until the zone has caught up.
const UNDER_LOAD_MAX: Duration = Duration::from_secs(45);
const REFILLED_MAX: Duration = Duration::from_secs(180);

pub(super) fn classes() -> Vec<Class> {
    let class = |name, run| Class {
        name,
        number: "I10",
        reduced: true,
        hold_ms: (0, 500),
        aim: Aim::Any,
        needs: Needs::Zone,
        weight: 1,
        run,
    };
    vec![
        class("chain-rewrite", |s| forged(s).boxed_local()),
        class("forged-zone", |s| forged_below_log(s).boxed_local()),
    ]
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
    let healed = healed(&scene, had, (started, fenced_at)).await;
    verified?;
    fenced?;
    let (refilled, seconds) = healed?;
    Ok(format!(
        "links {first} to {had} rewritten, both found that; re-seeded to {refilled}, {seconds} s"
    ))
}

/// The nodes run on, and no coordinator can feed the zone from the first rewritten link on.
async fn forged_below_log(scene: Scene) -> Outcome {
    let sql = scene.database().await?;
    let log_first = until("every log is purged", PURGED_MAX, async || log_first(&scene).await);
    let log_first = log_first.await?;
    let back = i64::try_from((scene.seed >> 16) & 0xff)?;
    let first = (log_first - 1 - back).max(2);
    let started = scene.load.book.now();
    let had = rewritten_payload(&sql, first).await?;
    let refused = until("the zone refuses reads", REFUSED_MAX, async || {
        (shown(&scene, first).await == 0).then_some(())
    });
    let refused = refused.await;
    let fenced_at = scene.load.book.now();
    let found = async {
        fenced(&scene, first).await?;
        scene.hold().await;
        scene.cluster.finds(scene.zone, first).await
    };
    let shows = until("a refused zone shows something", FENCED_MAX + FOUND_MAX, async || {
        Some(shown(&scene, first).await).filter(|answers| *answers > 0)
    });
    let found = tokio::select! {
        biased;
        found = found => found,
        Ok(answers) = shows => Err(anyhow::anyhow!(
            "{answers} reads of a zone that had refused them were answered before it was re-seeded"
        )),
    };
    let healed = healed(&scene, had, (started, fenced_at)).await;
    refused?;
    found?;
    let (refilled, seconds) = healed?;
    Ok(format!(
        "links {first} to {had} rewritten, every log begins at {log_first} or later; no read answered \
         after {} ms, first bad id named; re-seeded to {refilled}, {seconds} s",
        (fenced_at - started) / 1_000_000
    ))
}

/// Gives the zone its chain back, whatever it noticed. Answers up to which id it has it, and how many
/// seconds the whole fault took.
async fn healed(
    scene: &Scene,
    had: i64,
    (started, fenced_at): (u64, u64),
) -> anyhow::Result<(i64, u64)> {
    // Routed as by a balancer that reads `/readyz`, because a refused client returns at once.
    scene.load.avoid(&[scene.zone]);
    let reseeded = reseeded(scene).await;
    let whole = async || {
        let sql = scene.cluster.sql(scene.zone).await.ok()?;
        number(&sql, APPLIED).await.filter(|applied| *applied >= had)
    };
    let mut refilled = until("the zone has what it had", UNDER_LOAD_MAX, whole).await;
    if refilled.is_err() {
        scene.load.burst(0);
        refilled = until("the zone has what it had", REFILLED_MAX, whole).await;
        scene.load.burst(1);
    }
    scene.load.avoid(&[]);
    let ended = scene.load.book.now();
    let reset = Reset { zone: u16::try_from(scene.zone)?, started, ended };
    scene.load.book.forgive(reset, fenced_at);
    reseeded?;
    Ok((refilled?, (ended - started) / 1_000_000_000))
}

/// How many reads the zone's nodes answer: the link `first`, a page as another zone is filled from it, and
/// the newest link.
async fn shown(scene: &Scene, first: i64) -> usize {
    let paths = [
        format!("/v1/chain/{first}?timeout=1s"),
        format!("/v1/chain?after={}&limit=1&timeout=1s", first - 1),
        "/v1/chain/head?timeout=1s".to_owned(),
    ];
    let nodes = 0..scene.zone().api.len();
    let nodes = nodes.map(|node| scene.cluster.ground.api(scene.zone, node));
    let asked = nodes.flat_map(|address| paths.iter().map(move |path| View::code(address, path)));
    join_all(asked).await.into_iter().filter(|code| *code == Some(200)).count()
}

/// First id that any coordinator can feed a zone with, once all have purged what there was before it.
async fn log_first(scene: &Scene) -> Option<i64> {
    let mut first = u64::MAX;
    for zone in 0..ZONES {
        first = first.min(scene.cluster.log_first(zone).await?);
    }
    i64::try_from(first).ok().filter(|first| *first > LINKS_MIN)
}

/// Rewrites the payload of link `first`, and what follows from it, in one transaction. Answers the last
/// link.
async fn rewritten_payload(sql: &Sql, first: i64) -> anyhow::Result<i64> {
    let rewrite = include_str!("../../../rewrite.sql").replace(":first", &first.to_string());
    let payload = rewrite.replace("link.node_id := 'forged'", "link.payload := '\"forged\"'");
    anyhow::ensure!(payload != rewrite, "tests/rewrite.sql names the change otherwise");
    sql.batch("begin; select from pghc.frontier for update").await?;
    sql.batch(&payload).await?;
    let had = number(sql, APPLIED).await.context("the zone's frontier")?;
    sql.batch("commit").await?;
    Ok(had)
}

/// Reseeds the zone as an operator does, repeating refused commands; at last by force, so that the
/// run can continue.
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
    let first = had - LINKS[usize::try_from((scene.seed >> 4) % 4)?] + 1;
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
