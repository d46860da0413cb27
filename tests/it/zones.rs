//! Zones come and go: they are filled from each other, find out what was done to them, are fenced
//! and healed, and keep what their reads promise.

mod ordered;
mod reading;
mod reads;
mod replica;
pub(crate) mod tamper;
pub(crate) mod town;

use pghc::task::Tasks;
use tokio_postgres::NoTls;

use crate::harness::wait_for;
use town::Town;
pub(crate) use town::query;

#[tokio::test(flavor = "multi_thread")]
async fn zone_below_log_is_backfilled_during_writes() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.write("eu", 3_000).await;
    town.forget().await;
    town.prepare("us").await;
    let dsn = town.login("pghc_node", "us");
    town.add("us").await;
    town.node("us", &dsn, &[]);
    // Writes through the new zone, too: ordering needs no database.
    for _ in 0..20 {
        town.write("eu", 20).await;
    }
    town.ready("us").await;
    wait_for("the new zone to be filled, not fed by the log", async || {
        town.node_of("us").logged().contains("filling begins").then_some(())
    })
    .await;
    town.write("us", 20).await;
    town.prove("us").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_backup_below_log_is_backfilled_for_tokens() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &[]).await;
    town.write("us", 300).await;
    town.node_of("us").stop().await;
    let admin = town.server.dsn();
    query(&admin, "create database backup template us").await;
    town.write("eu", 900).await;
    town.node_of("us").run();
    town.ready("us").await;
    let token = town.head("eu", "").await.and_then(|body| body.head).expect("a head").token;
    town.prove("us").await;
    town.forget().await;
    // Yesterday's backup takes the place of today's database, under a node that runs.
    query(&admin, "alter database us allow_connections false").await;
    query(&admin, "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'us'")
        .await;
    query(&admin, "drop database us").await;
    query(&admin, "create database us template backup").await;
    let url = format!("{}/v1/chain/head?at_least={token}&timeout=60s", town.url("us"));
    wait_for("the read that needs the token", async || {
        let answer = town.http.get(&url).send().await.ok()?;
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
    assert!(town.node_of("us").logged().contains("filling begins"));
    town.prove("us").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_row_fences_its_zone_until_reseed() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &["--audit-period-s", "1"]).await;
    town.write("us", 400).await;
    let (code, words) = town.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("nothing says that this chain is wrong"), "{words}");
    // The digest is made to fit, so that link 222 is sound in itself and 223 no longer follows.
    query(&town.dsn("us"), &tamper::edit_with_digest(222)).await;
    let words = town.not_ready("us", "the first bad id is 222").await;
    assert!(words.contains("pghc zone reseed"), "{words}");
    for (path, write) in [("/v1/chain/1", false), ("/v1/chain", true)] {
        let url = format!("{}{path}", town.url("us"));
        let request = if write { town.http.post(url).body("{}") } else { town.http.get(url) };
        let request = request.header("content-type", "application/json");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 503, "{path}");
        assert!(answer.text().await.expect("a body").contains("zone_halted"), "{path}");
    }
    // A restart does not lift the fence.
    town.node_of("us").stop().await;
    town.node_of("us").run();
    town.not_ready("us", "the first bad id is 222").await;
    town.write("eu", 50).await;
    let (code, words) = town.operate("us", &["reseed", "--dry-run"]).await;
    assert!(code == Some(0) && words.contains("nothing was changed"), "{code:?} {words}");
    town.not_ready("us", "222").await;
    let (code, words) = town.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.ready("us").await;
    town.prove("us").await;
    let kept = "select nspname from pg_namespace where nspname like 'pghc_evidence_%'";
    let aside = query(&town.dsn("us"), kept).await;
    let evidence = format!("select id || ' ' || link from {}.evidence", aside[0]);
    let evidence = query(&town.dsn("us"), &evidence).await;
    assert!(evidence[0].starts_with("222 (222,"), "{evidence:?}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reseed_requires_database_owner() {
    let mut town = Town::start().await;
    for zone in ["eu", "us"] {
        town.zone(zone, &["--audit-rows", "0"]).await;
    }
    town.write("us", 60).await;
    let schemas = "select count(*) from pg_namespace where nspname like 'pghc%'";
    // As the node's own login, which owns nothing.
    let dsn = town.login("pghc_node", "us");
    let (code, words) = town.operate_on(&dsn, "us", &["reseed", "--force"]).await;
    assert!(code == Some(1) && words.contains("pghc_setup"), "{code:?} {words}");
    assert_eq!(query(&town.dsn("us"), schemas).await, ["1"], "{words}");
    // While the node runs: it goes on in the chain that was put in place.
    let (code, words) = town.operate("us", &["reseed", "--force"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.write("us", 20).await;
    town.prove("us").await;
    assert_eq!(query(&town.dsn("us"), schemas).await, ["2"], "{words}");
    // While it does not.
    town.node_of("us").stop().await;
    let (code, words) = town.operate("us", &["reseed", "--force"]).await;
    assert_eq!(code, Some(0), "{words}");
    let made = "select (select count(*) from pghc.chain) || zone from pghc.cluster";
    assert_eq!(query(&town.dsn("us"), made).await, ["0us"]);
    town.node_of("us").run();
    town.ready("us").await;
    town.write("us", 20).await;
    town.prove("us").await;
    assert_eq!(query(&town.dsn("us"), schemas).await, ["3"]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_changed_under_a_running_node_is_told_at_once() {
    let mut town = Town::start().await;
    for zone in ["eu", "us"] {
        town.zone(zone, &["--audit-rows", "0"]).await;
    }
    town.write("us", 30).await;
    town.prove("us").await;
    // An audit trigger of the application: it runs behind every batch, and the zone goes on.
    let audit = "create schema app; grant usage on schema app to public;
        create function app.audit() returns trigger language plpgsql as 'begin return null; end';
        create trigger audit after insert on pghc.chain for each statement
            execute function app.audit()";
    query(&town.dsn("us"), audit).await;
    wait_for("a warning of the trigger", async || {
        let url = format!("{}/v1/status", town.url("us"));
        let status = town.http.get(url).send().await.ok()?;
        let status: pghc_api::wire::Status = status.json().await.ok()?;
        let us = status.zones.into_iter().find(|zone| zone.zone == "us")?;
        us.message?.contains("CREATE TRIGGER audit").then_some(())
    })
    .await;
    assert!(town.node_of("us").logged().contains("changed while this node runs"));
    town.ready("us").await;
    town.node_of("us").stop().await;
    town.node_of("us").run();
    town.ready("us").await;
    town.write("us", 5).await;
    // Rows that are hidden from the reading role are never told to be absent.
    let hide = "alter table pghc.chain enable row level security;
        create policy hide on pghc.chain for select using (id <> 5)";
    query(&town.dsn("us"), hide).await;
    let url = format!("{}/v1/chain/5", town.url("us"));
    let answer = town.http.get(&url).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    town.not_ready("us", "row security").await;
    query(
        &town.dsn("us"),
        "alter table pghc.chain disable row level security; \
        drop policy hide on pghc.chain; drop trigger audit on pghc.chain",
    )
    .await;
    town.ready("us").await;
    town.prove("us").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_with_rewritten_newest_link_is_fenced_by_next_batch() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &["--audit-rows", "0"]).await;
    town.write("us", 120).await;
    town.prove("us").await;
    query(&town.dsn("us"), &tamper::rewrite_from(77)).await;
    town.write("eu", 1).await;
    town.not_ready("us", "the first bad id is 77").await;
    // Nobody else is held up.
    town.write("eu", 10).await;
    town.ready("eu").await;
    let (code, words) = town.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.ready("us").await;
    town.prove("us").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_refused_by_zone_with_unchanged_hashes() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &["--audit-rows", "0"]).await;
    town.write("us", 10).await;
    town.prove("us").await;
    let token = town.head("eu", "").await.and_then(|body| body.head).expect("a head").token;
    assert_eq!(token.id().get(), 10);
    let hashes = "select string_agg(hash, ' ' order by id) from pghc.chain";
    let before = query(&town.dsn("us"), hashes).await;
    query(&town.dsn("us"), &tamper::forge_payload_from(5)).await;
    assert_eq!(query(&town.dsn("us"), hashes).await, before);

    let url = format!("{}/v1/chain/5?at_least={token}", town.url("us"));
    let answer = town.http.get(url).send().await.expect("an answer");
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
    // The zone may have been fenced meanwhile.
    let is_refused = status == 409 && text.contains("chain_fork");
    assert!(is_refused || status == 503 && text.contains("zone_halted"), "{status} {text}");
    let verify = async |zones: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chain-verify"));
        command.args(["--token", &token.to_string()]);
        for zone in zones {
            command.arg("--zone").arg(format!("{zone}={}", town.dsn(zone)));
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
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_by_http_equals_one_from_the_database() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.write("eu", 700).await;
    wait_for("eu to have it all", async || {
        town.head("eu", "").await.filter(|body| body.frontier == 700)
    })
    .await;
    let mut exports = Vec::new();
    for source in [["--api", &town.url("eu")], ["--database", &town.dsn("eu")]] {
        let mut command = tokio::process::Command::new(crate::harness::binary());
        // A proxy for the outside world knows nothing of zones.
        command.env("http_proxy", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
        let output = command.arg("export").args(source).output().await.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        exports.push(output.stdout);
    }
    assert!(exports[0] == exports[1], "the bytes are the same");
    assert_eq!(exports[0].iter().filter(|byte| **byte == b'\n').count(), 701);
    town.stop().await;
}

/// Three zones with 120 links each, and nothing written any longer.
async fn quiet_town() -> Town {
    let mut town = Town::start().await;
    for zone in ["eu", "us", "ap"] {
        town.zone(zone, &["--audit-rows", "0"]).await;
    }
    town.write("us", 120).await;
    for zone in ["us", "ap"] {
        town.prove(zone).await;
    }
    town
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bad_zones_do_not_outvote_a_restarted_sound_zone() {
    let mut town = quiet_town().await;
    town.node_of("eu").stop().await;
    for zone in ["us", "ap"] {
        query(&town.dsn(zone), &tamper::rewrite_from(77)).await;
    }
    let dsn = town.login("pghc_node", "eu");
    town.node("eu", &dsn, &["--audit-period-s", "1"]);
    wait_for("the check of eu", async || {
        let text = town.node_of("eu").logged();
        let restart = text.rmatch_indices("applying for this zone").next()?.0;
        text[restart..].contains("the chain of this zone was checked and is sound").then_some(())
    })
    .await;
    town.ready("eu").await;
    let fences = query(&dsn, "select count(*) from pghc.evidence").await;
    assert_eq!(fences, ["0"]);
    // The next batch shows who is wrong.
    town.write("eu", 1).await;
    for zone in ["us", "ap"] {
        town.not_ready(zone, "the first bad id is 77").await;
    }
    town.ready("eu").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_rewritten_while_down_is_fenced_without_writes() {
    let mut town = quiet_town().await;
    for is_quiet in [true, false] {
        town.leave("us").await;
        query(&town.dsn("us"), &tamper::rewrite_from(77)).await;
        if !is_quiet {
            town.write("eu", 30).await;
        }
        town.back("us");
        town.fenced_unseen("us", 77, 80).await;
        let (code, words) = town.operate("us", &["reseed"]).await;
        assert_eq!(code, Some(0), "{words}");
        town.ready("us").await;
        town.prove("us").await;
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_chain_is_fenced_while_nothing_is_written() {
    let mut town = quiet_town().await;
    // Nobody is there to compare with but the coordinators.
    for zone in ["eu", "ap"] {
        town.leave(zone).await;
    }
    query(&town.dsn("us"), &tamper::rewrite_from(77)).await;
    let words = town.not_ready("us", "the first bad id is 77 ").await;
    assert!(!words.contains("no sound zone has said yet"), "{words}");
    town.back("eu");
    town.ready("eu").await;
    let (code, words) = town.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.ready("us").await;
    town.prove("us").await;
    town.stop().await;
}

/// Zone us was rewritten from link 7 on while it was away, and no log reaches back to its frontier.
async fn town_with_a_forged_zone() -> Town {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &["--audit-rows", "0"]).await;
    town.write("us", 120).await;
    town.prove("us").await;
    town.leave("us").await;
    query(&town.dsn("us"), &tamper::rewrite_from(7)).await;
    town.forget().await;
    town
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_zone_is_fenced_though_no_log_reaches_back() {
    let mut town = town_with_a_forged_zone().await;
    town.leave("eu").await;
    town.back("us");
    let words = town.fenced_unseen("us", 7, 80).await;
    assert!(!words.contains("no sound zone has said yet"), "{words}");
    town.back("eu");
    town.ready("eu").await;
    let (code, words) = town.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.ready("us").await;
    town.prove("us").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_zone_is_not_filled_from_a_forged_one() {
    let mut town = town_with_a_forged_zone().await;
    town.leave("eu").await;
    town.back("us");
    town.prepare("ap").await;
    town.add("ap").await;
    let dsn = town.dsn("ap");
    town.node("ap", &town.login("pghc_node", "ap"), &["--audit-rows", "0"]);
    town.not_ready("ap", "cannot be filled from another one").await;
    town.not_ready("us", "the first bad id is 7 ").await;
    assert_eq!(query(&dsn, "select count(*) from pghc.chain").await, ["0"]);
    town.back("eu");
    town.ready("ap").await;
    town.prove("ap").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_zone_that_has_not_noticed_is_no_source() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &["--audit-rows", "0"]).await;
    town.write("us", 120).await;
    town.leave("us").await;
    town.forget().await;
    town.back("us");
    town.ready("us").await;
    town.prove("us").await;
    town.prepare("ap").await;
    town.leave("eu").await;
    town.add("ap").await;
    let dsn = town.dsn("ap");
    // How a node looks at its own chain waits for this lock, what it serves does not.
    let (us, connection) = tokio_postgres::connect(&town.dsn("us"), NoTls).await.expect("it runs");
    let tasks = Tasks::default();
    tasks.spawn("lock", async move { drop(connection.await) });
    let lock = "begin; lock table pghc.evidence in access exclusive mode";
    us.batch_execute(lock).await.expect("locked");
    query(&town.dsn("us"), &tamper::forge_payload_from(7)).await;
    town.node("ap", &town.login("pghc_node", "ap"), &["--audit-rows", "0"]);
    town.not_ready("ap", "is not the one that was ordered").await;
    assert_eq!(query(&dsn, "select count(*) from pghc.chain").await, ["0"]);
    drop(us);
    town.not_ready("us", "the first bad id is 7 ").await;
    town.back("eu");
    town.ready("ap").await;
    town.prove("ap").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_by_hand_fences_a_zone_at_once() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.zone("us", &["--audit-rows", "0"]).await;
    town.write("us", 120).await;
    town.prove("us").await;
    let (login, coordinator) = (town.login("pghc_node", "us"), town.coordinator_url());
    let asked = ["audit", "--coordinator", &coordinator];
    let (code, words) = town.operate_on(&login, "us", &asked).await;
    assert!(code == Some(0) && words.contains("SOUND: links 1 to 120"), "{code:?} {words}");
    let (code, words) = town.operate_on(&login, "us", &["audit", "--from", "100"]).await;
    assert!(code == Some(2) && words.contains("INCOMPLETE"), "{code:?} {words}");
    for wrong in [&["audit", "--from", "121"][..], &["audit", "--from", "x"]] {
        let (code, words) = town.operate_on(&login, "us", wrong).await;
        assert_eq!(code, Some(3), "{words}");
    }
    town.ready("us").await;
    // Sound in itself at its end: only a recomputation shows it.
    query(&town.dsn("us"), &tamper::edit_with_digest(22)).await;
    let from = ["audit", "--coordinator", &coordinator, "--from", "60"];
    let (code, words) = town.operate_on(&login, "us", &from).await;
    assert!(code == Some(0) && words.contains("SOUND: links 60 to 120"), "{code:?} {words}");
    let (code, words) = town.operate_on(&login, "us", &asked).await;
    assert!(code == Some(1) && words.contains("the first bad id is 22 "), "{code:?} {words}");
    town.not_ready("us", "the first bad id is 22 ").await;
    let (code, words) = town.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.ready("us").await;
    town.prove("us").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_database_serves_other_zone_only_after_adoption() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.write("eu", 200).await;
    let (code, words) = town.operate("eu", &["adopt", "--zone", "ap"]).await;
    assert!(code == Some(1) && words.contains("stop that node first"), "{code:?} {words}");
    town.node_of("eu").stop().await;
    query(&town.server.dsn(), "create database ap template eu owner pghc_setup").await;
    query(
        &town.dsn("ap"),
        "set session_replication_role = replica;
        update pghc.frontier set renewed_at = renewed_at - interval '1 hour'",
    )
    .await;
    town.node_of("eu").run();
    let dsn = town.login("pghc_node", "ap");
    town.add("ap").await;
    town.node("ap", &dsn, &[]);
    town.not_ready("ap", "belongs to zone eu").await;
    let (code, words) = town.operate("ap", &["adopt", "--zone", "ap"]).await;
    assert_eq!(code, Some(0), "{words}");
    town.ready("ap").await;
    town.ready("eu").await;
    town.write("ap", 20).await;
    town.prove("ap").await;
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_ahead_of_coordinators_stops_with_reason() {
    let mut town = Town::start().await;
    town.zone("eu", &[]).await;
    town.write("eu", 40).await;
    town.lose().await;
    town.not_ready("eu", "the zone is ahead of the log").await;
    let rows = query(&town.dsn("eu"), "select count(*) from pghc.chain").await;
    assert_eq!(rows, ["40"], "its data stays as it is");
    town.stop().await;
}
