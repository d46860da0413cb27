//! Logins of a zone's database that are not the node's: one that may only connect, and one with the applier's
//! role. Neither may change what the zone does: F31.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::FutureExt as _;

use super::replica::{APPLIED, number};
use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::{Sql, View};

/// Login without any grant but CONNECT.
const STRANGER: &str = "nemesis_stranger";
/// Login with the applier's role.
const APPLIER: &str = "nemesis_applier";
/// Payloads that extra clients notify: an id far ahead, the largest of 64 bits, and no number.
const BELLS: [&str; 3] = ["1000000000000", "18446744073709551615", "not a number"];
/// Pause between two rounds of notifications.
const BELL_PAUSE: Duration = Duration::from_millis(20);
/// Advisory locks that a stranger holds: every epoch of a run and more.
const LOCKS: u32 = 2_000;
/// Longest time until a zone has an applier again.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, aim, needs, hold_ms, run| Class {
        name,
        number,
        reduced: true,
        hold_ms,
        aim,
        needs,
        weight: 1,
        run,
    };
    vec![
        class("applier-role", "F31", Aim::Any, Needs::Database, (0, 200), |s| {
            applier_role(s).boxed_local()
        }),
        class("foreign-locks", "F31", Aim::Any, Needs::Zone, (200, 1_000), |s| {
            locks(s).boxed_local()
        }),
        class("foreign-bell", "F31", Aim::Pair, Needs::Database, (500, 2_000), |s| {
            bell(s).boxed_local()
        }),
    ]
}

/// Makes the two logins where they are missing, and connects as `login`.
async fn connected(scene: &Scene, login: &str) -> anyhow::Result<Sql> {
    let sql = scene.database().await?;
    for (name, role) in [(STRANGER, None), (APPLIER, Some("pghc_applier"))] {
        let there = format!("select from pg_roles where rolname = '{name}'");
        if sql.query(&there).await?.is_empty() {
            sql.batch(&format!("create role {name} login")).await?;
        }
        if let Some(role) = role {
            sql.batch(&format!("grant {role} to {name}")).await?;
        }
    }
    sql.batch(&format!("grant connect on database pghc to {STRANGER}, {APPLIER}")).await?;
    scene.cluster.sql_as(scene.zone, login).await
}

/// An extra client notifies false frontiers in a zone with a standby node. No node may report more
/// than is applied; the history's checker finds answers for unapplied links; the end of a process
/// is a finding.
async fn bell(scene: Scene) -> Outcome {
    let (sql, own) = (connected(&scene, STRANGER).await?, scene.database().await?);
    let (started, mut rung) = (tokio::time::Instant::now(), 0_u32);
    while rung == 0 || started.elapsed() < scene.hold {
        for payload in BELLS {
            sql.batch(&format!("notify pghc_frontier, '{payload}'")).await?;
            rung += 1;
        }
        tokio::time::sleep(BELL_PAUSE).await;
        let nodes = scene.cluster.nodes().into_iter().map(|(zone, _)| zone);
        let told = nodes.zip(View::ask(&scene.cluster).await.frontiers);
        let told = told.filter(|(zone, _)| *zone == scene.zone).filter_map(|(_, told)| told).max();
        let applied = number(&own, APPLIED).await.context("the zone's frontier")?;
        let is_true = told.is_none_or(|told| i64::try_from(told).is_ok_and(|told| told <= applied));
        ensure!(is_true, "a node says that {told:?} is applied where {applied} is");
    }
    Ok(format!("{rung} notifications of frontiers that are not there"))
}

/// An extra client holds every advisory lock that an epoch could have while the nodes of the zone start anew.
async fn locks(scene: Scene) -> Outcome {
    let sql = connected(&scene, STRANGER).await?;
    let held = sql
        .query(&format!(
            "select count(*) filter (where pg_try_advisory_lock(1885825123, n)) \
             from generate_series(0, {LOCKS}) n"
        ))
        .await?;
    let held: i64 = held.first().context("a row")?.try_get(0)?;
    let nodes = &scene.zone().api;
    for unit in nodes {
        unit.kill().await?;
    }
    scene.hold().await;
    let mut started = Ok(());
    for unit in nodes {
        started = started.and(unit.start().await);
    }
    started?;
    let applies = until("the zone has an applier", TAKEOVER_MAX, async || {
        View::ask(&scene.cluster).await.appliers[scene.zone].clone()
    });
    let applier = applies.await?;
    // The locks were held until here.
    drop(sql);
    Ok(format!("{applier} applies although a stranger held {held} advisory locks"))
}

/// Statements of a login with the applier's role; each must be refused.
const TRIES: [&str; 5] = [
    "update pghc.frontier set epoch = epoch + 1",
    "update pghc.frontier set applied_id = applied_id + 1",
    "insert into pghc.chain select * from pghc.chain order by id desc limit 1",
    "delete from pghc.chain where id = (select max(id) from pghc.chain)",
    "truncate pghc.evidence",
];

/// A login with the applier's role that was not let in changes nothing, whatever its session claims.
async fn applier_role(scene: Scene) -> Outcome {
    let sql = connected(&scene, APPLIER).await?;
    sql.batch("set role pghc_applier").await?;
    let epoch = scene.database().await?.query("select epoch::text from pghc.frontier").await?;
    let epoch: &str = epoch.first().context("a frontier")?.try_get(0)?;
    sql.query(&format!("select set_config('pghc.epoch', '{epoch}', false)")).await?;
    for attempt in TRIES {
        ensure!(sql.batch(attempt).await.is_err(), "role pghc_applier was let to: {attempt}");
    }
    scene.hold().await;
    Ok(format!("{} statements of the applier's role were refused", TRIES.len()))
}
