//! Killed processes restart by themselves, and no acknowledged write is lost or repeated.

use futures::future::join_all;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pghc_api::wire::LinkBody;
use pghc_dev::deployment::Part;

use crate::harness::{ClientPool, PATIENCE, Site, wait_for};

const ZONES: [&str; 3] = ["eu", "us", "ap"];

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_one_process_under_load_keeps_exactly_once() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 2);
    clients.progress(50).await;
    let leader = site.leader_zone().await;
    site.kill(&leader, Part::Coordinator).await;
    clients.progress(100).await;
    let leader = site.leader_zone().await;
    let follower = ZONES.into_iter().find(|zone| *zone != leader).expect("three zones");
    site.kill(follower, Part::Coordinator).await;
    clients.progress(100).await;
    site.kill("us", Part::Api(0)).await;
    clients.progress(100).await;
    site.kill("ap", Part::Postgres).await;
    clients.progress(100).await;
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_of_all_processes_under_load_keeps_exactly_once() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 2);
    for _ in 0..2 {
        clients.progress(50).await;
        let parts = [Part::Coordinator, Part::Api(0), Part::Postgres];
        let all = ZONES.iter().flat_map(|zone| parts.map(|part| site.kill(zone, part)));
        join_all(all).await;
        clients.progress(50).await;
    }
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_applier_cannot_commit_after_replacement() {
    let site = Site::start(2).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(20).await;
    let eu = &site.record().zones[0];
    let applier = async |urls: &[String]| {
        for (number, url) in (1..).zip(urls) {
            let status = site.http.get(format!("{url}/v1/status"));
            let status = status.timeout(std::time::Duration::from_secs(1)).send().await;
            let Ok(status) = status else { continue };
            let status: pghc_api::wire::Status = status.json().await.ok()?;
            if status.is_applier {
                return Some(number);
            }
        }
        None
    };
    let frozen: usize = wait_for("an applier", async || applier(&eu.api).await).await;
    let pid = site.deployment.pid("eu", Part::Api(frozen - 1)).expect("it runs");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("ours");
    let standby = 3 - frozen;
    wait_for("another applier", async || applier(&eu.api[standby - 1..standby]).await.map(|_| ()))
        .await;
    clients.progress(20).await;
    nix::sys::signal::kill(pid, Signal::SIGCONT).expect("ours");
    wait_for("the old applier to stand by", async || {
        let now = applier(&eu.api[frozen - 1..frozen]).await;
        let ready =
            site.http.get(format!("{}/readyz/write", eu.api[frozen - 1])).send().await.ok()?;
        (now.is_none() && ready.status().is_success()).then_some(())
    })
    .await;
    clients.progress(50).await;
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_key_in_any_other_zone_gets_the_same_id() {
    let site = Site::start(1).await;
    let write = async |zone: usize| {
        let request = site.http.post(format!("{}/v1/chain", site.api(zone)));
        let request = request.header("content-type", "application/json");
        let request = request.header("idempotency-key", "one-of-a-kind");
        let answer = request.body(r#"{"payload":{"n":1}}"#).send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<LinkBody>().await.expect("a link"))
    };
    let (status, first) = write(0).await;
    assert_eq!(status, 201);
    for zone in [1, 2, 0] {
        let (status, again) = write(zone).await;
        let same = (again.id, again.hash, again.digest) == (first.id, first.hash, first.digest);
        assert!(status == 200 && same, "zone {zone}: {status} {again:?}");
    }
    // At the same moment in all zones, under a key that is new to each.
    let at_once = join_all((0..9).map(async |number: usize| {
        let request = site.http.post(format!("{}/v1/chain", site.api(number % 3)));
        let request = request.header("content-type", "application/json");
        let answer = request.header("idempotency-key", "at-once").body("{}").send().await;
        answer.expect("an answer").json::<LinkBody>().await.expect("a link").id
    }))
    .await;
    assert!(at_once.iter().all(|id| *id == at_once[0]), "{at_once:?}");
    site.deployment.stop().await;
}

/// Whether a database answers and a query finds a row there.
async fn holds(dsn: &str, query: &str) -> bool {
    let Ok((client, connection)) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await else {
        return false;
    };
    let rows = tokio::select! {
        rows = client.query(query, &[]) => rows,
        // The server was killed meanwhile.
        _ = connection => return false,
    };
    rows.is_ok_and(|rows| !rows.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_while_it_is_prepared_is_prepared_again() {
    let site = Site::launch(1).await;
    let dsn = site.record().zones[1].dsn.clone();
    // Later and later steps; what an earlier life has reached counts, too.
    let steps = [
        "select 1",
        "select 1 from pg_stat_activity where datname = current_database()
           and pid <> pg_backend_pid() and backend_type = 'client backend'",
        "select 1 from pg_namespace where nspname = 'pghc'",
        "select 1 from pg_class where oid = to_regclass('pghc.chain')",
    ];
    for step in steps {
        wait_for(step, async || holds(&dsn, step).await.then_some(())).await;
        site.kill("us", Part::Postgres).await;
    }
    let clients = ClientPool::start(&site, 1);
    clients.progress(30).await;
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_zone_database_is_filled_again_from_the_log() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(60).await;
    let dsn = site.record().zones[2].dsn.clone();
    let (client, connection) =
        tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.expect("it answers");
    let drop_schema = client.batch_execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()
           and datname = current_database();
         drop schema pghc cascade",
    );
    tokio::select! {
        done = drop_schema => done.expect("dropped"),
        _ = connection => panic!("the connection ended"),
    }
    clients.progress(60).await;
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_while_no_coordinator_lives() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(10).await;
    let acked_writes = clients.finish().await;
    site.settle().await;
    for zone in ZONES {
        site.deployment.pause_supervision(zone, Part::Coordinator).await.expect("a child");
        site.kill(zone, Part::Coordinator).await;
    }
    wait_for("nodes that know", async || {
        let ready = site.http.get(format!("{}/readyz/write", site.api(0))).send().await.ok()?;
        (ready.status().as_u16() == 503).then_some(())
    })
    .await;
    for zone in 0..3 {
        for path in [format!("/v1/chain/{}", acked_writes[0].id), "/readyz".to_owned()] {
            let url = format!("{}{path}", site.api(zone));
            let answer = site.http.get(url).send().await.expect("an answer");
            assert_eq!(answer.status().as_u16(), 200, "zone {zone}: {path}");
        }
    }
    for zone in ZONES {
        site.deployment.resume_supervision(zone, Part::Coordinator).await.expect("a child");
    }
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_coordinator_restart_causes_no_client_error() {
    let site = Site::start(1).await;
    let clients = ClientPool::patient(&site, 2);
    clients.progress(50).await;
    for zone in ZONES {
        let by = Signal::SIGTERM;
        site.deployment
            .kill(zone, Part::Coordinator, by)
            .await
            .expect("a child of this deployment");
        clients.progress(50).await;
        site.deployment.ready(PATIENCE).await.expect("all are ready again");
        clients.progress(50).await;
    }
    assert_eq!(clients.not_acknowledged(), 0, "answers other than 2xx");
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    site.deployment.stop().await;
}
