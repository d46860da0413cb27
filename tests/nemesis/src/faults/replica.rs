//! A zone's PostgreSQL dies, and a physical replica that lags behind takes its place: F22.

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use pghc_dev::process::Process;
use pghc_history::Reset;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::{Replacements, Sql};

/// Longest time until a replica streams, lags, or is promoted.
const STEP_MAX: Duration = Duration::from_secs(40);
/// Longest time until a promoted one has all that its zone had.
const REFILLED_MAX: Duration = Duration::from_secs(60);
/// Ids that the replica lags behind at least.
const LAG_IDS: i64 = 20;

pub(super) fn classes() -> Vec<Class> {
    vec![Class {
        name: "replica-promote",
        number: "F22",
        reduced: true,
        hold_ms: (300, 3_000),
        aim: Aim::Any,
        needs: Needs::Database,
        weight: 1,
        run: |s| promoted(s).boxed_local(),
    }]
}

/// The first column of the first row.
pub(super) async fn number(sql: &Sql, query: &str) -> Option<i64> {
    sql.query(query).await.ok()?.first()?.try_get(0).ok()
}

/// The zone's frontier.
pub(super) const APPLIED: &str = "select applied_id::bigint from pghc.frontier";
const RECEIVERS: &str = "select count(*) from pg_stat_wal_receiver";
const IN_RECOVERY: &str = "select pg_is_in_recovery()::int::bigint";

/// A streaming replica is made of the running server, and loses the stream and falls behind; the
/// server is killed, and the replica is promoted and replaces it. The API nodes know both
/// addresses.
async fn promoted(scene: Scene) -> Outcome {
    let primary = scene.database().await?;
    let mut replica = scene.cluster.replica(scene.zone).await?;
    let lagging = lags(&scene, &primary).await;
    drop(primary);
    let had = match lagging {
        Ok(had) => had,
        Err(error) => {
            replica.kill().await?;
            return Err(error);
        }
    };
    let took_over = take_over(&scene, replica).await;
    let (started, evidence) = took_over?;
    let refilled = until("the promoted server has what its zone had", REFILLED_MAX, async || {
        let sql = scene.cluster.sql(scene.zone).await.ok()?;
        number(&sql, APPLIED).await.filter(|applied| *applied >= had)
    });
    let refilled = refilled.await;
    let (zone, ended) = (u16::try_from(scene.zone)?, scene.load.book.now());
    let reset = Reset { zone, started, ended };
    scene.load.book.with_history(|history| history.resets.push(reset));
    let (behind, seconds) = (evidence, (ended - started) / 1_000_000_000);
    let refilled = refilled?;
    Ok(format!("promoted at id {behind} of {had}, at {refilled} after {seconds} s"))
}

/// Cuts the replica's stream once it streams, and waits until it lags. Answers the primary's frontier.
async fn lags(scene: &Scene, primary: &Sql) -> anyhow::Result<i64> {
    let next = scene.cluster.replacements.server(scene.zone) + 1;
    let streams = until("the replica streams", STEP_MAX, async || {
        let sql = scene.cluster.sql_of(scene.zone, next).await.ok()?;
        let streams = number(&sql, RECEIVERS).await? == 1 && number(&sql, IN_RECOVERY).await? == 1;
        streams.then_some(sql)
    });
    let replica = streams.await?;
    replica.batch("alter system set primary_conninfo = ''").await?;
    replica.batch("select pg_reload_conf()").await?;
    let cut = until("the stream ends", STEP_MAX, async || {
        number(&replica, RECEIVERS).await.filter(|count| *count == 0)
    });
    cut.await?;
    scene.hold().await;
    let lags = until("the replica lags", STEP_MAX, async || {
        let (has, had) = (number(&replica, APPLIED).await?, number(primary, APPLIED).await?);
        (had >= has + LAG_IDS).then_some(had)
    });
    lags.await
}

/// The server dies and the replica is promoted. Answers since when, and the id that it was at.
async fn take_over(scene: &Scene, replica: Process) -> anyhow::Result<(u64, i64)> {
    let (cluster, zone, unit) = (&scene.cluster, scene.zone, &scene.zone().postgres);
    let started = scene.load.book.now();
    let old = cluster.replacements.server(zone);
    unit.end(Signal::SIGKILL).await?;
    cluster.replacements.promote(zone);
    unit.adopt(replica).await?;
    let sql = scene.database().await?;
    let has = number(&sql, APPLIED).await.context("its frontier")?;
    sql.batch("select pg_promote()").await?;
    let promoted = until("the replica takes writes", STEP_MAX, async || {
        number(&sql, IN_RECOVERY).await.filter(|recovery| *recovery == 0)
    });
    promoted.await?;
    let disk = &scene.zone().data_disk;
    std::fs::remove_dir_all(Replacements::data(disk.path(), old))?;
    disk.sync()?;
    Ok((started, has))
}
