//! Reads of a zone whose database was changed by hand: refusals, their delay, and detection of the
//! change.

use super::cluster::{SmallCluster, query};
use super::tamper;
use crate::harness::wait_for;

/// Zones eu and us with 40 links each and no audit in the background; us is the one that is changed.
async fn cluster() -> SmallCluster {
    let mut cluster = SmallCluster::start().await;
    for zone in ["eu", "us"] {
        cluster.zone(zone, &["--audit-rows", "0"]).await;
    }
    cluster.write("us", 40).await;
    cluster.prove("us").await;
    cluster
}

/// Status and text of a read of zone us.
async fn read(cluster: &SmallCluster, path: &str) -> (u16, String) {
    let answer = cluster.http.get(format!("{}{path}", cluster.url("us"))).send().await;
    let answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

/// Waits until zone us refuses a read of `path` with 503.
async fn refused(cluster: &SmallCluster, path: &str) -> String {
    wait_for(&format!("{path} refused"), async || {
        let (status, text) = read(cluster, path).await;
        (status == 503).then_some(text)
    })
    .await
}

async fn reseed(cluster: &SmallCluster) {
    let (code, words) = cluster.operate("us", &["reseed"]).await;
    assert_eq!(code, Some(0), "{words}");
    cluster.ready("us").await;
    cluster.prove("us").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_payload_fences_its_zone_before_any_read() {
    let cluster = cluster().await;
    for id in [7, 40] {
        let link = cluster.http.get(format!("{}/v1/chain/{id}", cluster.url("us"))).send().await;
        let link = link.expect("an answer").text().await.expect("a body");
        let link: serde_json::Value = serde_json::from_str(&link).expect("a link");
        let token = link["token"].as_str().expect("a token").to_owned();
        // The digest stays, so that only a recomputation shows it.
        let change = "set session_replication_role = replica; update pghc.chain set payload = ";
        query(&cluster.dsn("us"), &format!("{change}'\"forged\"' where id = {id}")).await;
        let with_token = format!("/v1/chain/{id}?at_least={token}");
        for (path, code) in [(with_token.as_str(), 409), ("/v1/chain?limit=40", 503)] {
            let (status, text) = read(&cluster, path).await;
            // The zone may be fenced meanwhile.
            assert!(status == code || status == 503, "{path}: {status} {text}");
            assert!(!text.contains("\"forged\""), "{path}: {text}");
        }
        cluster.not_ready("us", &format!("the first bad id is {id} ")).await;
        let mut verify = tokio::process::Command::new(env!("CARGO_BIN_EXE_chain-verify"));
        for zone in ["eu", "us"] {
            verify.arg("--zone").arg(format!("{zone}={}", cluster.url(zone)));
        }
        let verified = verify.output().await.expect("it runs");
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        let summary = "VIOLATION: us was not read: ";
        assert!(verified.status.code() == Some(1) && text.contains(summary), "{text}");
        assert!(text.contains(&format!("the first bad id is {id} ")), "{text}");
        reseed(&cluster).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_were_never_ordered_are_soon_not_read() {
    let cluster = cluster().await;
    query(&cluster.dsn("us"), &tamper::append_unordered(2)).await;
    let words = refused(&cluster, "/v1/chain/41?timeout=1s").await;
    assert!(words.contains("the newest link that was ordered is 40"), "{words}");
    cluster.not_ready("us", "the newest link that was ordered is 40").await;
    let login = cluster.login("pghc_node", "us");
    let coordinator = cluster.coordinator_url();
    let audit = ["audit", "--coordinator", &coordinator];
    let (code, words) = cluster.operate_on(&login, "us", &audit).await;
    assert!(code == Some(2) && words.contains("was ordered is 40"), "{code:?} {words}");
    // The next write shows which links they are.
    cluster.write("eu", 1).await;
    cluster.not_ready("us", "the first bad id is 41 ").await;
    reseed(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unordered_links_are_not_read_while_coordinators_are_away() {
    let mut cluster = cluster().await;
    cluster.stop_coordinator().await;
    query(&cluster.dsn("us"), &tamper::append_unordered(2)).await;
    let words = refused(&cluster, "/v1/chain/41?timeout=1s").await;
    assert!(words.contains("no coordinator answers"), "{words}");
    let (status, text) = read(&cluster, "/v1/chain/40?timeout=1s").await;
    assert_eq!(status, 503, "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_above_a_frontier_that_was_set_back_fence_the_zone() {
    let cluster = cluster().await;
    let back = "set session_replication_role = replica;
        update pghc.frontier set (applied_id, hash, digest, written_at) =
            (select id, hash, digest, written_at from pghc.chain where id = 30)";
    query(&cluster.dsn("us"), back).await;
    cluster.not_ready("us", "the first bad id is 31 ").await;
    reseed(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_place_of_the_chain_is_soon_not_read() {
    let cluster = cluster().await;
    let replace = "alter table pghc.chain rename to kept;
        create view pghc.chain as select id, node_id, hash, digest, written_at, payload
            from pghc.kept;
        grant select on pghc.chain to pghc_reader";
    query(&cluster.dsn("us"), replace).await;
    let words = refused(&cluster, "/v1/chain/7?timeout=1s").await;
    assert!(words.contains("schema"), "{words}");
    let back = "drop view pghc.chain; alter table pghc.kept rename to chain";
    query(&cluster.dsn("us"), back).await;
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_hidden_are_no_evidence() {
    let cluster = cluster().await;
    query(&cluster.dsn("us"), "alter table pghc.chain enable row level security").await;
    cluster.not_ready("us", "row security").await;
    let kept = query(&cluster.dsn("us"), "select count(*) from pghc.evidence").await;
    assert_eq!(kept, ["0"]);
    query(&cluster.dsn("us"), "alter table pghc.chain disable row level security").await;
    cluster.ready("us").await;
    cluster.prove("us").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_by_soon_shows_no_unordered_link() {
    let mut cluster = cluster().await;
    let us = cluster.login("pghc_node", "us");
    cluster.node_named("us", "us-2", &us, &["--audit-rows", "0"]);
    wait_for("a second node", async || {
        let logged = cluster.node_of("us-2").logged();
        (logged.contains("standing by") && logged.contains("chain proven by the coordinators"))
            .then_some(())
    })
    .await;
    query(&cluster.dsn("us"), &tamper::append_unordered(2)).await;
    let url = format!("{}/v1/chain/41?timeout=1s", cluster.url("us-2"));
    wait_for("a refusal", async || {
        let answer = cluster.http.get(&url).send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        (status == 503 && text.contains("was ordered is 40")).then_some(())
    })
    .await;
    assert_ne!(read(&cluster, "/v1/chain/41?timeout=1s").await.0, 200, "the applier knows better");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_keeps_expected_with_found_link() {
    let cluster = cluster().await;
    query(&cluster.dsn("us"), &tamper::rewrite_from(7)).await;
    cluster.not_ready("us", "the first bad id is 7 ").await;
    let kept =
        query(&cluster.dsn("us"), "select found || ' ' || expected from pghc.evidence").await;
    let lengths: Vec<usize> = kept[0].split(' ').map(str::len).take(2).collect();
    assert_eq!(lengths, [64, 64], "two digests: {kept:?}");
    cluster.stop().await;
}
