//! A zone with a physical replica: what the replica serves, and what happens when it becomes the
//! zone's database although it was behind.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::signal::Signal;
use pghc_api::wire::{HeadBody, LinkBody};
use pghc_dev::postgres::{Install, Server, ServerOptions};

use super::cluster::{SmallCluster, query};
use super::tamper::rewrite_from;
use crate::harness::free_port;
use crate::harness::wait_for;

/// A replica of `primary`'s whole server, streaming from it.
async fn replica_of(primary: &Server, directory: &Path) -> Server {
    let owner = std::fs::metadata(primary.data_dir()).expect("it is there");
    let home = directory.join("replica");
    std::fs::create_dir(&home).expect("created");
    std::os::unix::fs::chown(&home, Some(owner.uid()), Some(owner.gid())).expect("given");
    let data = home.join("pg");
    let mut command =
        std::process::Command::new(Install::find().expect("it is there").bin.join("pg_basebackup"));
    command.args(["-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h"]);
    command
        .arg(primary.socket_dir())
        .arg("-p")
        .arg(primary.port().to_string())
        .arg("-D")
        .arg(&data);
    if nix::unistd::Uid::effective().is_root() {
        use std::os::unix::process::CommandExt as _;
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.current_dir(&home);
    let output = command.output().expect("pg_basebackup runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Server::start(ServerOptions::new(data, free_port())).await.expect("the replica starts")
}

fn dsn(server: &Server) -> String {
    server.dsn_of("us")
}

/// A cluster whose zone us has a replica and an API node that knows of both servers.
async fn cluster_with_replica() -> (SmallCluster, Server) {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    query(&cluster.server.dsn(), "create database us").await;
    // The replica is of the whole server, so eu's database is on a server of its own.
    let directory = cluster.directory();
    let options = ServerOptions::new(directory.join("us/pg"), free_port());
    let primary = Server::start(options).await.expect("PostgreSQL is installed");
    query(&primary.dsn(), "create database us").await;
    let replica = replica_of(&primary, &directory).await;
    let both = format!(
        "host={},{} port={},{} user=postgres dbname=us target_session_attrs=read-write",
        primary.socket_dir().display(),
        replica.socket_dir().display(),
        primary.port(),
        replica.port()
    );
    cluster.add("us").await;
    cluster.node("us", &both, &["--replica", &dsn(&replica)]);
    cluster.ready("us").await;
    cluster.other = Some(primary);
    (cluster, replica)
}

async fn get(cluster: &SmallCluster, path: &str) -> (u16, String) {
    let answer =
        cluster.http.get(format!("{}{path}", cluster.url("us"))).send().await.expect("answered");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

async fn replayed(replica: &Server, id: u64) {
    wait_for("the replica to replay", async || {
        let at = query(&dsn(replica), "select applied_id from pghc.frontier").await;
        (at.first()?.parse::<u64>().ok()? >= id).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_never_serves_below_requested_id() {
    let (cluster, replica) = cluster_with_replica().await;
    cluster.write("us", 50).await;
    let head = cluster.head("us", "").await.expect("a head").frontier;
    replayed(&replica, head).await;
    let reads = "select count(*) from pg_stat_activity where application_name = 'pghc reader'";
    wait_for("the replica to be asked", async || {
        let (status, _) = get(&cluster, &format!("/v1/chain/{head}?at_least={head}")).await;
        assert_eq!(status, 200);
        // One session polls the replica, and one reads.
        (query(&dsn(&replica), reads).await[0].as_str() >= "2").then_some(())
    })
    .await;
    // The replica stands still: newer links come from the primary.
    query(&dsn(&replica), "select pg_wal_replay_pause()").await;
    cluster.write("us", 10).await;
    let newer = cluster.head("us", "?linearizable=true").await.expect("a head");
    assert_eq!(newer.frontier, head + 10);
    let (status, body) = get(&cluster, &format!("/v1/chain/{0}?at_least={0}", head + 10)).await;
    assert_eq!(status, 200, "{body}");
    // The primary is unreachable: the replica serves its links, and reads of newer ones wait.
    cluster.other.as_ref().expect("the primary").signal(Signal::SIGKILL);
    cluster.not_ready("us", "not").await;
    let (status, body) = get(&cluster, &format!("/v1/chain/{head}?at_least={head}")).await;
    assert_eq!(status, 200, "{body}");
    let newer = format!("/v1/chain/{}?at_least={}&timeout=1s", head + 10, head + 10);
    let (status, body) = get(&cluster, &newer).await;
    assert!(matches!(status, 503 | 504), "{status} {body}");
    query(&dsn(&replica), "select pg_wal_replay_resume()").await;
    wait_for("the replica to have it", async || {
        let (status, body) = get(&cluster, &newer).await;
        let link = (status == 200).then(|| serde_json::from_str::<LinkBody>(&body));
        (link?.expect("a link").id == head + 10).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promoted_replica_is_backfilled_without_breaking_tokens() {
    let (cluster, replica) = cluster_with_replica().await;
    cluster.write("us", 60).await;
    let old = cluster.head("us", "").await.expect("a head").frontier;
    replayed(&replica, old).await;
    // The replica loses its primary and falls behind.
    query(&dsn(&replica), "alter system set primary_conninfo = ''").await;
    query(&dsn(&replica), "select pg_reload_conf()").await;
    wait_for("the stream to end", async || {
        let count = query(&dsn(&replica), "select count(*) from pg_stat_wal_receiver").await;
        (count == ["0"]).then_some(())
    })
    .await;
    cluster.write("us", 70).await;
    let token = cluster.head("us", "").await.and_then(|body| body.head).expect("a head").token;
    cluster.other.as_ref().expect("the primary").signal(Signal::SIGKILL);
    let url = format!("{}/v1/chain/head?at_least={token}&timeout=2s", cluster.url("us"));
    let read = async || -> Option<u64> {
        let answer = cluster.http.get(&url).send().await.ok()?;
        match answer.status().as_u16() {
            200 => Some(answer.json::<HeadBody>().await.expect("a head").frontier),
            503 | 504 => None,
            other => panic!("a read with a token is never answered {other}"),
        }
    };
    assert_eq!(read().await, None, "nobody has it");
    query(&dsn(&replica), "select pg_promote()").await;
    let served = wait_for("the read with the token", read).await;
    assert!(served >= token.id().get());
    cluster.ready("us").await;
    cluster.write("us", 10).await;
    cluster.prove("us").await;
    let rows = query(&dsn(&replica), "select count(*) from pghc.verify()").await;
    assert_eq!(rows, ["0"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_transaction_is_applied_once() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &[]).await;
    cluster.write("us", 10).await;
    let backend = query(
        &cluster.dsn("us"),
        "select pid from pg_stat_activity where application_name = 'pghc applier'
            and datname = 'us'",
    )
    .await;
    let backend = nix::unistd::Pid::from_raw(backend[0].parse().expect("a process id"));
    nix::sys::signal::kill(backend, Signal::SIGSTOP).expect("we may");
    let stopped = std::time::Instant::now();
    cluster.write("eu", 30).await;
    let words = cluster.not_ready("us", "has not answered a transaction").await;
    println!("told of after {:?}: {words}", stopped.elapsed());
    let (status, body) = get(&cluster, "/v1/chain/3").await;
    assert_eq!(status, 200, "reads go on: {body}");
    nix::sys::signal::kill(backend, Signal::SIGCONT).expect("we may");
    cluster.ready("us").await;
    cluster.prove("us").await;
    assert_eq!(query(&cluster.dsn("us"), "select count(*) from pghc.chain").await, ["40"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_database_is_not_reported_as_behind() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("us", &[]).await;
    cluster.write("us", 10).await;
    let dsn = cluster.dsn("us");
    let lock = "begin; lock table pghc.chain in access exclusive mode; select pg_sleep(5)";
    let locks = query(&dsn, lock);
    let asked = async {
        let held = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted
            and relation = 'pghc.chain'::regclass";
        wait_for("the lock", async || {
            (query(&cluster.dsn("us"), held).await == ["1"]).then_some(())
        })
        .await;
        get(&cluster, "/v1/chain/3?at_least=3&timeout=300ms").await
    };
    let (_, (status, body)) = tokio::join!(locks, asked);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("database_unavailable"), "{body}");
    assert_eq!(get(&cluster, "/v1/chain/3").await.0, 200, "the lock is gone");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_promoted_is_no_longer_read() {
    let (mut cluster, replica) = cluster_with_replica().await;
    cluster.write("us", 40).await;
    replayed(&replica, 40).await;
    let may = "replica may be read";
    wait_for(may, async || cluster.node_of("us").logged().contains(may).then_some(())).await;
    query(&dsn(&replica), "select pg_promote()").await;
    let why = "it was promoted";
    wait_for(why, async || cluster.node_of("us").logged().contains(why).then_some(())).await;
    query(&dsn(&replica), &rewrite_from(7)).await;
    for id in (7..=40).cycle().take(100) {
        let (status, body) = get(&cluster, &format!("/v1/chain/{id}?at_least={id}")).await;
        assert!(status == 200 && !body.contains("forged"), "{status} {body}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_chain_is_never_read() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.zone("us", &[]).await;
    cluster.write("us", 120).await;
    cluster.prove("us").await;
    cluster.leave("us").await;
    // Left behind by a restore, and changed since; and the database of another zone.
    query(&cluster.server.dsn(), "create database old template us").await;
    query(&cluster.dsn("old"), &rewrite_from(77)).await;
    let (old, eu) = (cluster.dsn("old"), cluster.dsn("eu"));
    let us = cluster.login("pghc_node", "us");
    cluster.node("us", &us, &["--replica", &old, "--replica", &eu]);
    cluster.ready("us").await;
    for words in ["is not the one that was ordered", "the database is of zone eu"] {
        wait_for(words, async || cluster.node_of("us").logged().contains(words).then_some(()))
            .await;
    }
    let due = cluster.head("eu", "").await.expect("a head").frontier;
    for id in (70..=due).cycle().take(150) {
        let (status, body) = get(&cluster, &format!("/v1/chain/{id}?at_least={id}")).await;
        assert!(status == 200 && !body.contains("forged"), "{status} {body}");
    }
    cluster.stop().await;
}
