//! Membership changes under load: a coordinator that lost its disk is replaced, leadership is
//! transferred, a voter becomes a learner and a voter again: F17, F28.
//!
//! A class of these holds one zone's vote, so that the two others have theirs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;
use pghc_runtime::rpc::v1::MemberView;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::ZONES;
use crate::sandbox::tool;

/// Longest time until a coordinator that forgot something has refused to go on.
const REFUSED_MAX: Duration = Duration::from_secs(40);
/// Longest time until a membership change is done, from the first request.
const ORDERED_MAX: Duration = Duration::from_secs(90);
/// Longest time until the members' list shows what was done.
const LISTED_MAX: Duration = Duration::from_secs(60);
/// Longest time until two of three acknowledge a write, an election included.
const DECIDED_MAX: Duration = Duration::from_secs(30);
/// Advice that a coordinator prints when it must not start.
const WAY_OUT: &str = "pghc members replace";

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, aim, hold_ms, run| Class {
        name,
        number,
        reduced: true,
        hold_ms,
        aim,
        needs: Needs::Coordinator,
        weight: 1,
        run,
    };
    vec![
        class("coordinator-replace", "F17", Aim::Biased, (300, 1_500), |s| {
            replaced(s).boxed_local()
        }),
        class("leader-move", "F28", Aim::Follower, (0, 500), |s| moved(s).boxed_local()),
        class("voter-demote", "F28", Aim::Biased, (500, 3_000), |s| demoted(s).boxed_local()),
    ]
}

/// The group's entry for a coordinator; `None` without an entry or without an answer.
async fn listed(scene: &Scene, id: u64) -> Option<MemberView> {
    let list = scene.cluster.members().await.ok()?;
    list.members.into_iter().find(|member| member.coordinator_id == id)
}

/// Orders a change of members as an operator does, repeating refused commands: on a busy machine a
/// member may be silent for a moment. Every change may be repeated.
async fn ordered(scene: &Scene, arguments: &[&str]) -> Outcome {
    let mut refusal = None;
    let done = until("the members are changed", ORDERED_MAX, async || {
        let done = scene.cluster.change_members(arguments).await;
        done.map_err(|error| refusal = Some(error)).ok()
    });
    let done = done.await;
    done.map_err(|late| refusal.map_or(late, |error| error.context("refused for too long")))
}

/// A coordinator loses its directory, its log, or all data since a backup; it must refuse to start
/// under its id; a new one replaces it, and its vote decides.
async fn replaced(scene: Scene) -> Outcome {
    let (cluster, unit) = (&scene.cluster, &scene.zone().coordinator);
    let old = cluster.replacements.coordinator(scene.zone);
    let lost = match scene.seed % 3 {
        0 => lose(&scene, "").await,
        1 => lose(&scene, "log").await,
        _ => put_back(&scene).await,
    };
    let from = unit.log_bytes();
    let refused = match lost {
        Ok(_) => unit.one_life(REFUSED_MAX).await,
        Err(error) => {
            unit.start().await?;
            return Err(error);
        }
    };
    let said = unit.log_since(from);
    // In every case, the group gets its third vote back.
    emptied(&scene, &scene.zone().log_data())?;
    let new = cluster.replacements.succeed(scene.zone);
    unit.start().await?;
    let (begun, member) =
        (Instant::now(), cluster.replacements.member(&cluster.ground, scene.zone));
    ordered(&scene, &["replace", &old.to_string(), &member, "--wait", "60"]).await?;
    let took = begun.elapsed();
    let status = refused.with_context(|| format!("{} with a lost disk", unit.name))?;
    ensure!(status.code() == Some(1), "{} with a lost disk ended with {status}", unit.name);
    ensure!(said.contains(WAY_OUT), "{} does not say how to replace it", unit.name);
    let votes = until("the new one is listed as a voter", LISTED_MAX, async || {
        let gone = listed(&scene, old).await.is_none();
        listed(&scene, new).await.filter(|member| gone && member.voter && member.reachable)
    });
    votes.await?;
    let decided = decided(&scene).await?;
    Ok(format!("{}: refused ({status}), {new} in place of {old} in {took:.1?}; {decided}", lost?))
}

/// Kills it and removes a part of its directory.
async fn lose(scene: &Scene, part: &str) -> Outcome {
    scene.zone().coordinator.kill().await?;
    let path = scene.zone().log_data().join(part);
    emptied(scene, &path)?;
    Ok(format!("{} wiped", path.display()))
}

fn emptied(scene: &Scene, path: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))?;
    scene.zone().log_disk.sync()
}

/// Kills it, and puts a copy of its directory back that is older than what it acknowledged since.
async fn put_back(scene: &Scene) -> Outcome {
    let (zone, unit) = (scene.zone(), &scene.zone().coordinator);
    let id = scene.cluster.replacements.coordinator(scene.zone);
    unit.kill().await?;
    let (data, copy) = (zone.log_data(), zone.log_disk.path().join("copy"));
    if copy.exists() {
        std::fs::remove_dir_all(&copy)?;
    }
    let copied = tool(&["cp", "-a", &data.to_string_lossy(), &copy.to_string_lossy()]);
    unit.start().await?;
    copied?;
    let acknowledges = async |more: u64| {
        let found = until("it acknowledges entries", LISTED_MAX, async || {
            let member = listed(scene, id).await.filter(|member| member.reachable)?;
            (member.acknowledged_next > more).then_some(member.acknowledged_next)
        });
        found.await
    };
    let first = acknowledges(0).await?;
    scene.hold().await;
    let last = acknowledges(first + ENTRIES_FORGOTTEN).await?;
    unit.kill().await?;
    emptied(scene, &data)?;
    std::fs::rename(&copy, &data)?;
    zone.log_disk.sync()?;
    Ok(format!("a copy from before entry {first} put back, {last} were acknowledged"))
}

/// Entries that an old backup lacks at least.
const ENTRIES_FORGOTTEN: u64 = 20;

/// One of the other two is stopped: a write acknowledged now was decided with this zone's vote.
async fn decided(scene: &Scene) -> Outcome {
    let step = 1 + usize::try_from((scene.seed >> 4) % 2)?;
    let other = &scene.cluster.zones[(scene.zone + step) % ZONES].coordinator;
    other.excuse();
    let killed = other.kill().await;
    let (book, from) = (&scene.load.book, scene.load.book.now());
    let acked = until("a write is acknowledged by two", DECIDED_MAX, async || {
        let acks = book.acks_between(from, book.now());
        acks.iter().any(|ack| ack.at.saturating_sub(ack.took) > from).then_some(())
    });
    let acked = acked.await;
    scene.hold().await;
    other.start().await?;
    other.no_excuse();
    killed?;
    acked?;
    let acks = book.acks_between(from, book.now()).len();
    Ok(format!("{acks} acknowledged with {} away", other.name))
}

/// An operator has another coordinator lead.
async fn moved(scene: Scene) -> Outcome {
    let (cluster, replacements) = (&scene.cluster, &scene.cluster.replacements);
    let before = until("a leader", LISTED_MAX, async || {
        cluster.members().await.ok().filter(|list| list.leader > 0)
    });
    let before = before.await?.leader;
    let here = replacements.coordinator(scene.zone);
    // Leadership may have come here meanwhile.
    let next = replacements.coordinator((scene.zone + 1) % ZONES);
    let to = if here == before { next } else { here };
    // The transfer is done when the chosen coordinator leads. Another fault may take the leadership
    // right after.
    ordered(&scene, &["lead", &to.to_string(), "--wait", "60"]).await?;
    scene.hold().await;
    Ok(format!("the lead moved from {before} to {to}"))
}

/// An operator makes a voter a learner, and a voter again.
async fn demoted(scene: Scene) -> Outcome {
    let id = scene.cluster.replacements.coordinator(scene.zone);
    let name = id.to_string();
    let listed_as = async |voter: bool| {
        let found = until("the list shows it", LISTED_MAX, async || {
            listed(&scene, id).await.filter(|member| member.voter == voter)
        });
        found.await.map(drop)
    };
    let demoted = async {
        // Two voters are left, which survive no failure.
        ordered(&scene, &["demote", &name, "--force", "--wait", "60"]).await?;
        listed_as(false).await?;
        scene.hold().await;
        anyhow::Ok(())
    };
    let demoted = demoted.await;
    ordered(&scene, &["promote", &name, "--wait", "60"]).await?;
    listed_as(true).await?;
    demoted?;
    Ok(format!("coordinator {id} was a learner for {:?} and votes again", scene.hold))
}
