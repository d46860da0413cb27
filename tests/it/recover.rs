//! Two of three coordinators are destroyed for good: the group continues from the third, and
//! acknowledged ids are given up only with an explicit count.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use futures::future::join_all;
use nix::sys::signal::Signal;
use pghc_dev::deployment::Part;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::harness::{AckedWrite, ClientPool, Site, binary, checker, wait_for};

const ZONES: [&str; 3] = ["eu", "us", "ap"];

fn data(site: &Site, zone: &str) -> PathBuf {
    site.deployment.data().join("zones").join(zone).join("coordinator")
}

/// Ends a coordinator and keeps it from coming back.
async fn end(site: &Site, zone: &str) {
    let part = Part::Coordinator;
    site.deployment.pause_supervision(zone, part).await.expect("a child of this deployment");
    site.deployment.kill(zone, part, Signal::SIGKILL).await.expect("a child of this deployment");
    wait_for("its end", async || site.deployment.pid(zone, part).is_none().then_some(())).await;
}

/// Runs `pghc recover` on the directory of `zone`, with every zone's database.
fn recover(site: &Site, zone: &str, more: &[&str]) -> (i32, String) {
    let zones = site.record().zones.into_iter();
    let zones: Vec<String> = zones.map(|zone| format!("{}={}", zone.name, zone.dsn)).collect();
    recover_with(site, zone, &zones, more)
}

/// As [`recover`], with these databases.
fn recover_with(site: &Site, zone: &str, zones: &[String], more: &[&str]) -> (i32, String) {
    let mut command = Command::new(binary());
    command.arg("recover").arg("--data").arg(data(site, zone)).args(more);
    for zone in zones {
        command.arg("--zone").arg(zone);
    }
    let output = command.output().expect("it was built");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("no signal"), String::from_utf8(text).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn group_recovers_from_last_coordinator_without_loss() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(60).await;
    let mut acked_writes = clients.finish().await;
    let head = site.settle().await;
    for zone in ["us", "ap"] {
        end(&site, zone).await;
        std::fs::remove_dir_all(data(&site, zone)).expect("destroyed");
    }
    let (code, text) = recover(&site, "eu", &[]);
    assert_eq!(code, 2, "it still runs: {text}");
    assert!(text.contains("in use by another process"), "{text}");
    end(&site, "eu").await;
    let (code, text) = recover(&site, "eu", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(&format!("kept: everything in {}", data(&site, "eu").display())),
        "{text}"
    );
    assert!(text.contains(&format!("up to id {head} with hash ")), "{text}");
    assert!(text.contains("the zones show 0 such ids"), "{text}");
    let mut zones = Vec::new();
    for zone in site.record().zones {
        zones.push(format!("{}={}", zone.name, checker(&zone.dsn).await));
    }
    let (code, by_checker) = recover_with(&site, "eu", &zones, &[]);
    assert_eq!((code, &by_checker), (0, &text), "a login that may only read will do");
    let (code, text) = recover(&site, "eu", &["--write"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("makes coordinator 1 the only member"), "{text}");
    let written = text.split("written: entry ").nth(1).expect("it says what it wrote");
    let term = written.split("of term ").nth(1).and_then(|rest| rest.split(' ').next());
    let term: u64 = term.and_then(|term| term.parse().ok()).expect("it says the term");
    assert!(term > 1 << 20, "beyond what the lost ones can have seen: {text}");
    let part = Part::Coordinator;
    site.deployment.resume_supervision("eu", part).await.expect("a child of this deployment");
    let clients = ClientPool::start(&site, 1);
    // The client sends the same keys again first; the reply cache answers them.
    clients.progress(acked_writes.len() as u64 + 40).await;
    let after = clients.finish().await;
    for again in after.iter().filter(|it| it.id <= head) {
        let known = |it: &AckedWrite| (it.id, &it.payload) == (again.id, &again.payload);
        assert!(acked_writes.iter().any(known), "{again:?}");
    }
    acked_writes.extend(after.into_iter().filter(|it| it.id > head));
    assert!(
        acked_writes.iter().any(|acked_write| acked_write.id == head + 1),
        "ids go on at {}",
        head + 1
    );
    wait_for("every zone", async || {
        let mut ids = Vec::new();
        for zone in 0..3 {
            ids.push(site.status(zone).await?.frontier);
        }
        (ids[0] > head && ids.iter().all(|id| *id == ids[0])).then_some(())
    })
    .await;
    let proof = site.verify().await;
    let text = String::from_utf8_lossy(&proof.stdout).into_owned();
    assert_eq!(proof.status.code(), Some(0), "chain-verify:\n{text}");
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_missing_on_survivor_need_explicit_count() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(20).await;
    clients.finish().await;
    let kept = site.settle().await;
    end(&site, "ap").await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(kept + 20).await;
    clients.finish().await;
    for zone in ["eu", "us"] {
        end(&site, zone).await;
    }
    let mut newest = 0;
    for zone in site.record().zones {
        newest = newest.max(crate::harness::head(&zone.dsn).await);
    }
    assert!(newest > kept);
    let lost = (newest - kept).to_string();
    for more in [&["--write"][..], &["--write", "--give-up-ids", "1"], &[]] {
        let (code, text) = recover(&site, "ap", more);
        assert_eq!(code, 1, "{more:?}: {text}");
        assert!(text.contains(&format!("has ids {} to {newest}", kept + 1)), "{text}");
        assert!(text.contains(&format!("--give-up-ids {lost} goes on without them")), "{text}");
    }
    // Nor are they given up where the zone has another link under an id that both have.
    let us = &site.record().zones[1].dsn;
    let change = |set: &str| {
        format!(
            "set session_replication_role = replica; update pghc.chain set {set} where id = {kept}"
        )
    };
    crate::zones::query(us, &change("hash = reverse(hash)")).await;
    let (code, text) = recover(&site, "ap", &["--write", "--give-up-ids", &lost]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("zone us has another history"), "{text}");
    let odd = format!("link {kept} is that of zones eu, ap, so zone us is the odd one");
    assert!(text.contains(&odd), "{text}");
    assert!(!text.contains("zone eu has another history"), "{text}");
    crate::zones::query(us, &change("hash = reverse(hash)")).await;
    // With the directory of one that has them, nothing is lost and nothing needs to be recovered.
    let other = data(&site, "us").display().to_string();
    let (code, text) = recover(&site, "ap", &["--data", &other, "--write"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the directories given are a majority"), "{text}");
    let (code, text) = recover(&site, "ap", &["--write", "--give-up-ids", &lost]);
    assert_eq!(code, 0, "{text}");
    site.deployment.stop().await;
}

/// Leaves the coordinator of `zone`, which leads, with a write in its log that no majority confirmed;
/// all three coordinators are down then. Answers the newest id that it holds.
async fn leave_a_tail(site: &Site, zone: &str) -> Option<u64> {
    let common = site.settle().await;
    let others: Vec<&str> = ZONES.into_iter().filter(|other| *other != zone).collect();
    for other in &others {
        let part = Part::Coordinator;
        site.deployment.pause_supervision(other, part).await.expect("a child of this deployment");
    }
    // The node takes writes while its last contact with the others is recent.
    join_all(others.iter().map(|other| site.kill(other, Part::Coordinator))).await;
    let place = ZONES.iter().position(|it| *it == zone).expect("one of them");
    let request = site.http.post(format!("{}/v1/chain?timeout=1s", site.api(place)));
    let request = request.header("content-type", "application/json").body("{}");
    assert!(!request.send().await.expect("an answer").status().is_success());
    end(site, zone).await;
    for other in others {
        let pid = || site.deployment.pid(other, Part::Coordinator);
        wait_for("its end", async || pid().is_none().then_some(())).await;
    }
    let (code, text) = recover(site, zone, &[]);
    assert_eq!(code, 0, "the zones have nothing else: {text}");
    let newest = text.split("up to id ").nth(1).expect("what is kept");
    let newest = newest.split(' ').next().and_then(|id| id.parse().ok()).expect("an id");
    (newest > common).then_some(newest)
}

#[tokio::test(flavor = "multi_thread")]
async fn survivor_keeps_acknowledged_writes_over_unacknowledged() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(20).await;
    let known = clients.finish().await.len() as u64;
    let part = Part::Coordinator;
    let mut left = None;
    // The leader may step down before the write reaches it; then once more.
    for _ in 0..20 {
        let zone = site.leader_zone().await;
        left = leave_a_tail(&site, &zone).await.map(|newest| (zone, newest));
        if left.is_some() {
            break;
        }
        for zone in ZONES {
            site.deployment
                .resume_supervision(zone, part)
                .await
                .expect("a child of this deployment");
        }
    }
    let (zone, newest) = left.expect("a tail within twenty attempts");
    let others: Vec<&str> = ZONES.into_iter().filter(|other| *other != zone).collect();
    for other in &others {
        site.deployment.resume_supervision(other, part).await.expect("a child of this deployment");
    }
    let clients = ClientPool::start(&site, 1);
    // The client sends the same keys again first; the reply cache answers them.
    clients.progress(known + 20).await;
    clients.finish().await;
    let dsns: Vec<_> = site.record().zones.into_iter().map(|it| (it.name, it.dsn)).collect();
    for (_, dsn) in &dsns {
        wait_for("other links", async || (crate::harness::head(dsn).await > newest).then_some(()))
            .await;
    }
    for other in &others {
        end(&site, other).await;
    }
    for more in [&["--write"][..], &["--write", "--give-up-ids", "1"], &[]] {
        let (code, text) = recover(&site, &zone, more);
        assert_eq!(code, 1, "{more:?}: {text}");
        for (name, _) in &dsns {
            assert!(text.contains(&format!("zone {name} has another history")), "{text}");
        }
        assert!(text.contains(&format!("and another link {newest}.")), "{text}");
        assert!(text.contains("was ordered by a later leader"), "{text}");
    }
    // A coordinator of the majority has all links.
    let other = data(&site, others[0]).display().to_string();
    let (code, text) = recover(&site, &zone, &["--data", &other]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("are a majority") && !text.contains("another history"), "{text}");
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_restarts_in_any_order_without_loss() {
    let site = Site::start(1).await;
    let clients = ClientPool::start(&site, 1);
    clients.progress(60).await;
    let mut parts = Vec::new();
    for zone in ["eu", "us", "ap"] {
        for part in [Part::Coordinator, Part::Api(0), Part::Postgres] {
            site.deployment
                .pause_supervision(zone, part)
                .await
                .expect("a child of this deployment");
            parts.push((zone, part));
        }
    }
    for (zone, part) in &parts {
        site.deployment
            .kill(zone, *part, Signal::SIGKILL)
            .await
            .expect("a child of this deployment");
    }
    wait_for("the end of all", async || {
        parts.iter().all(|(zone, part)| site.deployment.pid(zone, *part).is_none()).then_some(())
    })
    .await;
    let seed: u64 = rand::random();
    parts.shuffle(&mut StdRng::seed_from_u64(seed));
    println!("seed {seed}: {parts:?}");
    let started = Instant::now();
    for (zone, part) in &parts {
        site.deployment.resume_supervision(zone, *part).await.expect("a child of this deployment");
    }
    clients.progress(1).await;
    println!("first answer {:?} after the first was started again", started.elapsed());
    let acked_writes = clients.finish().await;
    site.check(&acked_writes).await;
    for zone in ["eu", "us", "ap"] {
        let log = site.deployment.data().join("log").join(format!("{zone}-coordinator.log"));
        wait_for("its word", async || {
            let text = std::fs::read_to_string(&log).ok()?;
            let restart = text.rmatch_indices("coordinator started").next()?.0;
            text[restart..].contains("every acknowledged write is here").then_some(())
        })
        .await;
    }
    site.deployment.stop().await;
}
