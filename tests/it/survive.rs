//! What dies comes back by itself, and nothing that was acknowledged is lost or done twice.

use futures::future::join_all;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pghc::dev::parade::Part;
use pghc_api::wire::LinkBody;

use crate::harness::{Crowd, Site, wait_for};

const ZONES: [&str; 3] = ["eu", "us", "ap"];

#[tokio::test(flavor = "multi_thread")]
async fn killing_any_one_process_under_load_loses_nothing_and_repeats_nothing() {
    let site = Site::start(1).await;
    let crowd = Crowd::start(&site, 2);
    crowd.progress(50).await;
    let leader = site.leader_zone().await;
    site.kill(&leader, Part::Coordinator).await;
    crowd.progress(100).await;
    let leader = site.leader_zone().await;
    let follower = ZONES.into_iter().find(|zone| *zone != leader).expect("three zones");
    site.kill(follower, Part::Coordinator).await;
    crowd.progress(100).await;
    site.kill("us", Part::Api(0)).await;
    crowd.progress(100).await;
    site.kill("ap", Part::Postgres).await;
    crowd.progress(100).await;
    let promises = crowd.finish().await;
    site.check(&promises).await;
    site.parade.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_everything_at_once_under_load_loses_nothing_and_repeats_nothing() {
    let site = Site::start(1).await;
    let crowd = Crowd::start(&site, 2);
    for _ in 0..2 {
        crowd.progress(50).await;
        let parts = [Part::Coordinator, Part::Api(0), Part::Postgres];
        let all = ZONES.iter().flat_map(|zone| parts.map(|part| site.kill(zone, part)));
        join_all(all).await;
        crowd.progress(50).await;
    }
    let promises = crowd.finish().await;
    site.check(&promises).await;
    site.parade.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_applier_is_replaced_and_can_never_commit_again() {
    let site = Site::start(2).await;
    let crowd = Crowd::start(&site, 1);
    crowd.progress(20).await;
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
    let pid = site.parade.pid("eu", Part::Api(frozen - 1)).expect("it runs");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("ours");
    let standby = 3 - frozen;
    wait_for("another applier", async || applier(&eu.api[standby - 1..standby]).await.map(|_| ()))
        .await;
    crowd.progress(20).await;
    nix::sys::signal::kill(pid, Signal::SIGCONT).expect("ours");
    wait_for("the old applier to stand by", async || {
        let now = applier(&eu.api[frozen - 1..frozen]).await;
        let ready = site.http.get(format!("{}/readyz", eu.api[frozen - 1])).send().await.ok()?;
        (now.is_none() && ready.status().is_success()).then_some(())
    })
    .await;
    crowd.progress(50).await;
    let promises = crowd.finish().await;
    site.check(&promises).await;
    site.parade.stop().await;
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
    site.parade.stop().await;
}
