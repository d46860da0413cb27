//! Life of zones: they are backfilled from each other, detect tampering, are fenced and repaired,
//! and keep the promises of their reads.

pub(crate) mod cluster;
mod ordered;
mod reading;
mod reads;
mod replica;
pub(crate) mod tamper;

use pghc_runtime::task::Tasks;
use tokio_postgres::NoTls;

use crate::harness::wait_for;
use cluster::SmallCluster;
pub(crate) use cluster::query;

#[tokio::test(flavor = "multi_thread")]
async fn zone_below_log_is_backfilled_during_writes() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.write("eu", 3_000).await;
    cluster.forget().await;
    cluster.prepare("us").await;
    let dsn = cluster.login("pghc_node", "us");
    cluster.add("us").await;
    cluster.node("us", &dsn, &[]);
    // Writes through the new zone, too: ordering needs no database.
    for _ in 0..20 {
        cluster.write("eu", 20).await;
    }
    cluster.ready("us").await;
    wait_for("the new zone to be filled, not fed by the log", async || {
        cluster.node_of("us").logged().contains("backfill began").then_some(())
    })
    .await;
    cluster.write("us", 20).await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_backup_below_log_is_backfilled_for_tokens() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &[]).await;
    cluster.write("us", 300).await;
    cluster.node_of("us").stop().await;
    let admin = cluster.server.dsn();
    query(&admin, "create database backup template us").await;
    cluster.write("eu", 900).await;
    cluster.node_of("us").run();
    cluster.ready("us").await;
    let token = cluster.head("eu", "").await.and_then(|body| body.head).expect("a head").token;
    cluster.prove("us").await;
    cluster.forget().await;
    // Yesterday's backup takes the place of today's database, under a node that runs.
    query(&admin, "alter database us allow_connections false").await;
    query(&admin, "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'us'")
        .await;
    query(&admin, "drop database us").await;
    query(&admin, "create database us template backup").await;
    let url = format!("{}/v1/chain/head?at_least={token}&timeout=60s", cluster.url("us"));
    wait_for("the read that needs the token", async || {
        let answer = cluster.http.get(&url).send().await.ok()?;
        match answer.status().as_u16() {
            200 => {
                let head: pghc_api::wire::HeadBody = answer.json().await.expect("a head");
                assert!(head.frontier >= token.id().get(), "less than the token promised");
                Some(())
            }
            503 | 504 => None,
            other => panic!("a read with a token is never answered {other}"),
        }
    })
    .await;
    assert!(cluster.node_of("us").logged().contains("backfill began"));
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_row_fences_its_zone_until_reseed() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-period-s", "1"]).await;
    cluster.write("us", 400).await;
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("nothing says that this chain is wrong"), "{words}");
    // The digest is made to fit, so that link 222 is sound in itself and 223 no longer follows.
    query(&cluster.dsn("us"), &tamper::edit_with_digest(222)).await;
    let words = cluster.not_ready("us", "the first bad id is 222").await;
    assert!(words.contains("pghc zone reseed"), "{words}");
    for (path, write) in [("/v1/chain/1", false), ("/v1/chain", true)] {
        let url = format!("{}{path}", cluster.url("us"));
        let request = if write { cluster.http.post(url).body("{}") } else { cluster.http.get(url) };
        let request = request.header("content-type", "application/json");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 503, "{path}");
        assert!(answer.text().await.expect("a body").contains("zone_halted"), "{path}");
    }
    // A restart does not lift the fence.
    cluster.node_of("us").stop().await;
    cluster.node_of("us").run();
    cluster.not_ready("us", "the first bad id is 222").await;
    cluster.write("eu", 50).await;
    let (code, words) = cluster.operate("us", &["reseed", "--dry-run"]).await;
    assert!(code == Some(0) && words.contains("nothing was changed"), "{code:?} {words}");
    cluster.not_ready("us", "222").await;
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("us").await;
    cluster.prove("us").await;
    let kept = "select nspname from pg_namespace where nspname like 'pghc_evidence_%'";
    let aside = query(&cluster.dsn("us"), kept).await;
    let evidence = format!("select id || ' ' || link from {}.evidence", aside[0]);
    let evidence = query(&cluster.dsn("us"), &evidence).await;
    assert!(evidence[0].starts_with("222 (222,"), "{evidence:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reseed_requires_database_owner() {
    let mut cluster = SmallCluster::start().await;
    for zone in ["eu", "us"] {
        cluster.zone(zone, &["--audit-rows", "0"]).await;
    }
    cluster.write("us", 60).await;
    let schemas = "select count(*) from pg_namespace where nspname like 'pghc%'";
    // As the node's own login, which owns nothing.
    let dsn = cluster.login("pghc_node", "us");
    let (code, words) = cluster.operate_on(&dsn, "us", &["reseed", "--force"]).await;
    assert!(code == Some(1) && words.contains("pghc_setup"), "{code:?} {words}");
    assert_eq!(query(&cluster.dsn("us"), schemas).await, ["1"], "{words}");
    // While the node runs: it continues in the replaced chain.
    let (code, words) = cluster.operate("us", &["reseed", "--force"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.write("us", 20).await;
    cluster.prove("us").await;
    assert_eq!(query(&cluster.dsn("us"), schemas).await, ["2"], "{words}");
    // While it does not.
    cluster.node_of("us").stop().await;
    let (code, words) = cluster.operate("us", &["reseed", "--force"]).await;
    assert_eq!(code, Some(0), "{words}");
    let made = "select (select count(*) from pghc.chain) || zone from pghc.cluster";
    assert_eq!(query(&cluster.dsn("us"), made).await, ["0us"]);
    cluster.node_of("us").run();
    cluster.ready("us").await;
    cluster.write("us", 20).await;
    cluster.prove("us").await;
    assert_eq!(query(&cluster.dsn("us"), schemas).await, ["3"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_changed_under_a_running_node_is_told_at_once() {
    let mut cluster = SmallCluster::start().await;
    for zone in ["eu", "us"] {
        cluster.zone(zone, &["--audit-rows", "0"]).await;
    }
    cluster.write("us", 30).await;
    cluster.prove("us").await;
    // An audit trigger of the application: it runs after every batch, and the zone keeps serving.
    let audit = "create schema app; grant usage on schema app to public;
        create function app.audit() returns trigger language plpgsql as 'begin return null; end';
        create trigger audit after insert on pghc.chain for each statement
            execute function app.audit()";
    query(&cluster.dsn("us"), audit).await;
    wait_for("a warning of the trigger", async || {
        let url = format!("{}/v1/status", cluster.url("us"));
        let status = cluster.http.get(url).send().await.ok()?;
        let status: pghc_api::wire::Status = status.json().await.ok()?;
        let us = status.zones.into_iter().find(|zone| zone.zone == "us")?;
        us.message?.contains("CREATE TRIGGER audit").then_some(())
    })
    .await;
    assert!(cluster.node_of("us").logged().contains("schema changed while the node runs"));
    cluster.ready("us").await;
    cluster.node_of("us").stop().await;
    cluster.node_of("us").run();
    cluster.ready("us").await;
    cluster.write("us", 5).await;
    // Rows that are hidden from the reading role are never told to be absent.
    let hide = "alter table pghc.chain enable row level security;
        create policy hide on pghc.chain for select using (id <> 5)";
    query(&cluster.dsn("us"), hide).await;
    let url = format!("{}/v1/chain/5", cluster.url("us"));
    let answer = cluster.http.get(&url).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    cluster.not_ready("us", "row security").await;
    query(
        &cluster.dsn("us"),
        "alter table pghc.chain disable row level security; \
        drop policy hide on pghc.chain; drop trigger audit on pghc.chain",
    )
    .await;
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_with_rewritten_newest_link_is_fenced_by_next_batch() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-rows", "0"]).await;
    cluster.write("us", 120).await;
    cluster.prove("us").await;
    query(&cluster.dsn("us"), &tamper::rewrite_from(77)).await;
    cluster.write("eu", 1).await;
    cluster.not_ready("us", "the first bad id is 77").await;
    // The other zones are not delayed.
    cluster.write("eu", 10).await;
    cluster.ready("eu").await;
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_refused_by_zone_with_unchanged_hashes() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-rows", "0"]).await;
    cluster.write("us", 10).await;
    cluster.prove("us").await;
    let token = cluster.head("eu", "").await.and_then(|body| body.head).expect("a head").token;
    assert_eq!(token.id().get(), 10);
    let hashes = "select string_agg(hash, ' ' order by id) from pghc.chain";
    let before = query(&cluster.dsn("us"), hashes).await;
    query(&cluster.dsn("us"), &tamper::forge_payload_from(5)).await;
    assert_eq!(query(&cluster.dsn("us"), hashes).await, before);

    let url = format!("{}/v1/chain/5?at_least={token}", cluster.url("us"));
    let answer = cluster.http.get(url).send().await.expect("an answer");
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
    // The zone may have been fenced meanwhile.
    let is_refused = status == 409 && text.contains("chain_fork");
    assert!(is_refused || status == 503 && text.contains("zone_halted"), "{status} {text}");
    let verify = async |zones: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chain-verify"));
        command.args(["--token", &token.to_string()]);
        for zone in zones {
            command.arg("--zone").arg(format!("{zone}={}", cluster.dsn(zone)));
        }
        let output = command.output().await.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = verify(&["us"]).await;
    assert!(code == Some(1) && text.contains("us: link 10 has a token"), "{code:?} {text}");
    let (code, text) = verify(&["eu"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&["us", "eu"]).await;
    assert!(code == Some(1) && text.contains("link 5 "), "{code:?} {text}");
    assert!(text.contains("trust nothing in us"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_by_http_equals_one_from_the_database() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.write("eu", 700).await;
    wait_for("eu to have it all", async || {
        cluster.head("eu", "").await.filter(|body| body.frontier == 700)
    })
    .await;
    let mut exports = Vec::new();
    for source in [["--api", &cluster.url("eu")], ["--database", &cluster.dsn("eu")]] {
        let mut command = tokio::process::Command::new(crate::harness::binary());
        // A proxy for the outside world knows nothing of zones.
        command.env("http_proxy", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
        let output = command.arg("export").args(source).output().await.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        exports.push(output.stdout);
    }
    assert!(exports[0] == exports[1], "the bytes are the same");
    assert_eq!(exports[0].iter().filter(|byte| **byte == b'\n').count(), 701);
    cluster.stop().await;
}

/// Three zones with 120 links each, and nothing written any longer.
async fn quiet_cluster() -> SmallCluster {
    let mut cluster = SmallCluster::start().await;
    for zone in ["eu", "us", "ap"] {
        cluster.zone(zone, &["--audit-rows", "0"]).await;
    }
    cluster.write("us", 120).await;
    for zone in ["us", "ap"] {
        cluster.prove(zone).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bad_zones_do_not_outvote_a_restarted_sound_zone() {
    let mut cluster = quiet_cluster().await;
    cluster.node_of("eu").stop().await;
    for zone in ["us", "ap"] {
        query(&cluster.dsn(zone), &tamper::rewrite_from(77)).await;
    }
    let dsn = cluster.login("pghc_node", "eu");
    cluster.node("eu", &dsn, &["--audit-period-s", "1"]);
    wait_for("the check of eu", async || {
        let text = cluster.node_of("eu").logged();
        let restart = text.rmatch_indices("applying for this zone").next()?.0;
        text[restart..].contains("chain audited and sound").then_some(())
    })
    .await;
    cluster.ready("eu").await;
    let fences = query(&dsn, "select count(*) from pghc.evidence").await;
    assert_eq!(fences, ["0"]);
    // The next batch shows which zone is wrong.
    cluster.write("eu", 1).await;
    for zone in ["us", "ap"] {
        cluster.not_ready(zone, "the first bad id is 77").await;
    }
    cluster.ready("eu").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_rewritten_while_down_is_fenced_without_writes() {
    let mut cluster = quiet_cluster().await;
    for is_quiet in [true, false] {
        cluster.leave("us").await;
        query(&cluster.dsn("us"), &tamper::rewrite_from(77)).await;
        if !is_quiet {
            cluster.write("eu", 30).await;
        }
        cluster.back("us");
        cluster.fenced_unseen("us", 77, 80).await;
        let (code, words) = cluster.operate("us", &["reseed"]).await;
        assert_eq!(code, Some(0), "{words}");
        cluster.ready("us").await;
        cluster.prove("us").await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_chain_is_fenced_while_nothing_is_written() {
    let mut cluster = quiet_cluster().await;
    // No zone is left for a comparison; only the coordinators are.
    for zone in ["eu", "ap"] {
        cluster.leave(zone).await;
    }
    query(&cluster.dsn("us"), &tamper::rewrite_from(77)).await;
    let words = cluster.not_ready("us", "the first bad id is 77 ").await;
    assert!(!words.contains("no sound zone has said yet"), "{words}");
    cluster.back("eu");
    cluster.ready("eu").await;
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

/// Zone us was rewritten from link 7 on while it was away, and no log reaches back to its frontier.
async fn cluster_with_a_forged_zone() -> SmallCluster {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-rows", "0"]).await;
    cluster.write("us", 120).await;
    cluster.prove("us").await;
    cluster.leave("us").await;
    query(&cluster.dsn("us"), &tamper::rewrite_from(7)).await;
    cluster.forget().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_zone_is_fenced_though_no_log_reaches_back() {
    let mut cluster = cluster_with_a_forged_zone().await;
    cluster.leave("eu").await;
    cluster.back("us");
    let words = cluster.fenced_unseen("us", 7, 80).await;
    assert!(!words.contains("no sound zone has said yet"), "{words}");
    cluster.back("eu");
    cluster.ready("eu").await;
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_zone_is_not_filled_from_a_forged_one() {
    let mut cluster = cluster_with_a_forged_zone().await;
    cluster.leave("eu").await;
    cluster.back("us");
    cluster.prepare("ap").await;
    cluster.add("ap").await;
    let dsn = cluster.dsn("ap");
    cluster.node("ap", &cluster.login("pghc_node", "ap"), &["--audit-rows", "0"]);
    cluster.not_ready("ap", "cannot be filled from another one").await;
    cluster.not_ready("us", "the first bad id is 7 ").await;
    assert_eq!(query(&dsn, "select count(*) from pghc.chain").await, ["0"]);
    cluster.back("eu");
    cluster.ready("ap").await;
    cluster.prove("ap").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_zone_that_has_not_noticed_is_no_source() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-rows", "0"]).await;
    cluster.write("us", 120).await;
    cluster.leave("us").await;
    cluster.forget().await;
    cluster.back("us");
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.prepare("ap").await;
    cluster.leave("eu").await;
    cluster.add("ap").await;
    let dsn = cluster.dsn("ap");
    // A node's check of its own chain waits for this lock, its service does not.
    let (us, connection) =
        tokio_postgres::connect(&cluster.dsn("us"), NoTls).await.expect("it runs");
    let tasks = Tasks::default();
    tasks.spawn("lock", async move { drop(connection.await) });
    let lock = "begin; lock table pghc.evidence in access exclusive mode";
    us.batch_execute(lock).await.expect("locked");
    query(&cluster.dsn("us"), &tamper::forge_payload_from(7)).await;
    cluster.node("ap", &cluster.login("pghc_node", "ap"), &["--audit-rows", "0"]);
    cluster.not_ready("ap", "is not the one that was ordered").await;
    assert_eq!(query(&dsn, "select count(*) from pghc.chain").await, ["0"]);
    drop(us);
    cluster.not_ready("us", "the first bad id is 7 ").await;
    cluster.back("eu");
    cluster.ready("ap").await;
    cluster.prove("ap").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_by_hand_fences_a_zone_at_once() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-rows", "0"]).await;
    cluster.write("us", 120).await;
    cluster.prove("us").await;
    let (login, coordinator) = (cluster.login("pghc_node", "us"), cluster.coordinator_url());
    let asked = ["audit", "--coordinator", &coordinator];
    let (code, words) = cluster.operate_on(&login, "us", &asked).await;
    assert!(code == Some(0) && words.contains("SOUND: links 1 to 120"), "{code:?} {words}");
    let (code, words) = cluster.operate_on(&login, "us", &["audit", "--from", "100"]).await;
    assert!(code == Some(2) && words.contains("INCOMPLETE"), "{code:?} {words}");
    for wrong in [&["audit", "--from", "121"][..], &["audit", "--from", "x"]] {
        let (code, words) = cluster.operate_on(&login, "us", wrong).await;
        assert_eq!(code, Some(3), "{words}");
    }
    cluster.ready("us").await;
    // Sound in itself at its end: only a recomputation shows it.
    query(&cluster.dsn("us"), &tamper::edit_with_digest(22)).await;
    let from = ["audit", "--coordinator", &coordinator, "--from", "60"];
    let (code, words) = cluster.operate_on(&login, "us", &from).await;
    assert!(code == Some(0) && words.contains("SOUND: links 60 to 120"), "{code:?} {words}");
    let (code, words) = cluster.operate_on(&login, "us", &asked).await;
    assert!(code == Some(1) && words.contains("the first bad id is 22 "), "{code:?} {words}");
    cluster.not_ready("us", "the first bad id is 22 ").await;
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_database_serves_other_zone_only_after_adoption() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.write("eu", 200).await;
    let (code, words) = cluster.operate("eu", &["adopt", "--zone", "ap"]).await;
    assert!(code == Some(1) && words.contains("stop that node first"), "{code:?} {words}");
    cluster.node_of("eu").stop().await;
    query(&cluster.server.dsn(), "create database ap template eu owner pghc_setup").await;
    query(
        &cluster.dsn("ap"),
        "set session_replication_role = replica;
        update pghc.frontier set renewed_at = renewed_at - interval '1 hour'",
    )
    .await;
    cluster.node_of("eu").run();
    let dsn = cluster.login("pghc_node", "ap");
    cluster.add("ap").await;
    cluster.node("ap", &dsn, &[]);
    cluster.not_ready("ap", "belongs to zone eu").await;
    let (code, words) = cluster.operate("ap", &["adopt", "--zone", "ap"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("ap").await;
    cluster.ready("eu").await;
    cluster.write("ap", 20).await;
    cluster.prove("ap").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_ahead_of_coordinators_stops_with_reason() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.write("eu", 40).await;
    cluster.lose().await;
    cluster.not_ready("eu", "the zone is ahead of the log").await;
    let rows = query(&cluster.dsn("eu"), "select count(*) from pghc.chain").await;
    assert_eq!(rows, ["40"], "its data stays as it is");
    cluster.stop().await;
}
