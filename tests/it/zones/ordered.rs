//! `chain-verify --coordinator`: zones that agree with each other are held against what was ordered.

use std::time::Duration;

use pghc_postgres::migrate;
use pghc_runtime::task::Tasks;

use super::cluster::SmallCluster;
use super::query;
use super::tamper::{forge_payload_from, rewrite_from};
use crate::harness::free_port;

const OTHER_CLUSTER: &str = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";

/// Cuts a chain off behind a link, and the frontier with it.
const CUT_TO_110: &str = "set session_replication_role = replica;
    delete from pghc.chain where id > 110;
    update pghc.frontier set (applied_id, hash, digest, written_at) =
        (select id, hash, digest, written_at from pghc.chain where id = 110)";

/// Adds link 121, which follows from the one before it.
const EXTENDED_TO_121: &str = "set session_replication_role = replica;
    insert into pghc.chain select 121, node_id, md5('121' || node_id || hash),
        pghc.link_digest((select cluster_id from pghc.cluster), 121, node_id, written_at, payload,
            digest), written_at, payload from pghc.chain where id = 120;
    update pghc.frontier set (applied_id, hash, digest, written_at) =
        (select id, hash, digest, written_at from pghc.chain where id = 121)";

/// Links in the zones.
const LINKS: usize = 120;

/// Zones eu and us with [`LINKS`] links each, and no node that runs and could halt or mend one.
async fn still_cluster() -> SmallCluster {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &["--audit-rows", "0"]).await;
    cluster.write("us", LINKS).await;
    cluster.prove("us").await;
    for zone in ["eu", "us"] {
        cluster.leave(zone).await;
    }
    cluster
}

/// Runs the program on databases of the cluster; returns its exit code and all it printed.
async fn verify(cluster: &SmallCluster, databases: &[&str], more: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chain-verify"));
    for database in databases {
        command.arg("--zone").arg(format!("{database}={}", cluster.dsn(database)));
    }
    command.args(["--wait", "0.2"]).args(more);
    let limit = Duration::from_secs(60);
    let output = tokio::time::timeout(limit, command.output()).await.expect("it ends");
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().expect("no signal"), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_forged_alike_are_found_by_coordinators() {
    let cluster = still_cluster().await;
    let coordinator = cluster.coordinator_url();
    let asked = ["--coordinator", &coordinator];
    let (code, text) = verify(&cluster, &["eu", "us"], &asked).await;
    assert!(code == 0 && text.contains("the same in 2 sources, and end as a majority"), "{text}");
    let (code, text) = verify(&cluster, &["eu"], &asked).await;
    assert!(code == 0 && text.contains("PROVED: links 1 to 120 are sound and end as"), "{text}");
    for sql in [forge_payload_from(77), rewrite_from(31)] {
        let id = if sql.contains("forged\"'") { 77 } else { 31 };
        for zone in ["eu", "us"] {
            query(&cluster.dsn(zone), &sql).await;
        }
        let (code, text) = verify(&cluster, &["eu", "us"], &[]).await;
        assert!(code == 0 && text.contains("PROVED"), "nothing outside speaks: {code} {text}");
        let (code, text) = verify(&cluster, &["eu", "us"], &asked).await;
        assert_eq!(code, 1, "{text}");
        for zone in ["eu", "us"] {
            let said = format!("{zone}: link {id} is not the same everywhere: expected digest ");
            assert!(text.contains(&said), "{said}: {text}");
        }
        assert!(text.contains(&format!("trust nothing in eu and us from link {id} on")), "{text}");
        assert!(!text.contains("PROVED"), "{text}");
        // Only the end is checked: the start of the forgery is unknown then.
        let (code, text) =
            verify(&cluster, &["eu", "us"], &[&asked[..], &["--last", "9"]].concat()).await;
        assert!(code == 1 && text.contains("the first bad link may lie below link 112"), "{text}");
        // Below the forgery all is well.
        let below = (id - 1).to_string();
        let (code, text) =
            verify(&cluster, &["eu"], &[&asked[..], &["--to", &below]].concat()).await;
        assert!(code == 0 && text.contains(&format!("links 1 to {below} are sound")), "{text}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_tell_the_forged_zone_from_the_honest() {
    let cluster = still_cluster().await;
    query(&cluster.dsn("us"), &rewrite_from(50)).await;
    let coordinator = cluster.coordinator_url();
    let (code, text) = verify(&cluster, &["eu", "us"], &["--coordinator", &coordinator]).await;
    assert!(code == 1 && text.contains("link 50 is not the same everywhere: eu hash"), "{text}");
    assert!(text.contains("the majority of the coordinators vouches for eu"), "{text}");
    assert!(text.contains("trust nothing in us from link 50 on"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_cut_or_extended_alike_are_never_proved() {
    let cluster = still_cluster().await;
    let coordinator = cluster.coordinator_url();
    let asked = ["--coordinator", &coordinator];
    let kept = cluster.directory().join("kept").display().to_string();
    let mut export = tokio::process::Command::new(crate::harness::binary());
    export.args(["export", "--database", &cluster.dsn("eu"), "--to", "110", "--output", &kept]);
    assert!(export.status().await.expect("it runs").success());
    let (code, text) = verify(&cluster, &[], &[&asked[..], &["--file", &kept]].concat()).await;
    assert!(code == 2 && text.contains("the chain is known to go on to 120"), "{code} {text}");
    let (code, text) =
        verify(&cluster, &[], &[&asked[..], &["--file", &kept, "--to", "110"]].concat()).await;
    assert_eq!(code, 0, "{text}");

    for zone in ["eu", "us"] {
        query(&cluster.dsn(zone), EXTENDED_TO_121).await;
    }
    let (code, text) = verify(&cluster, &["eu", "us"], &asked).await;
    assert!(code == 1 && text.contains("link 121 is not the same everywhere"), "{code} {text}");
    assert!(text.contains("has confirmed that link 120 is the newest"), "{text}");
    assert!(text.contains("behind the coordinators' backs"), "{text}");

    for zone in ["eu", "us"] {
        query(&cluster.dsn(zone), CUT_TO_110).await;
    }
    let (code, text) = verify(&cluster, &["eu", "us"], &[]).await;
    assert!(code == 0, "nothing outside speaks: {code} {text}");
    let (code, text) = verify(&cluster, &["eu", "us"], &asked).await;
    assert!(code == 2 && text.contains("us stands at 110 and did not reach 120"), "{code} {text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_that_cannot_vouch_prove_nothing() {
    let cluster = still_cluster().await;
    let coordinator = cluster.coordinator_url();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let (code, text) = verify(&cluster, &["eu", "us"], &["--coordinator", &nobody]).await;
    assert!(code == 2 && text.contains("no process listens there"), "{code} {text}");
    assert!(text.contains("see to it that each coordinator"), "{text}");
    // A silent coordinator is reported even if another one answers.
    let both = format!("{coordinator},{nobody}");
    let (code, text) = verify(&cluster, &["eu", "us"], &["--coordinator", &both]).await;
    assert!(code == 2 && text.contains(&format!("coordinator {nobody} does not")), "{code} {text}");
    // A port at which nothing speaks.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = (format!("http://{}", silent.local_addr().expect("bound")), silent);
    let (code, text) = verify(&cluster, &["eu"], &["--coordinator", &silent.0]).await;
    assert!(code == 2 && text.contains("did not answer within 10 s"), "{code} {text}");

    query(&cluster.server.dsn(), "create database other").await;
    let (dsn, tasks) = (cluster.dsn("other"), Tasks::default());
    let other_id = OTHER_CLUSTER.parse().expect("a UUID");
    let zone = "other".parse().expect("a name");
    migrate(&dsn.parse().expect("a DSN"), &other_id, &zone, &tasks).await.expect("fresh");
    query(&dsn, &crate::verify::fill(10, "")).await;
    let (code, text) = verify(&cluster, &["other"], &["--coordinator", &coordinator]).await;
    let said = format!("{coordinator} is of another cluster than the sources");
    assert!(code == 2 && text.contains(&said), "{code} {text}");
    assert!(!text.contains("PROVED"), "{text}");
    tasks.shut_down().await;
    cluster.stop().await;
}
