//! A deployment keeps its children alive and leaves nothing behind.
//!
//! PostgreSQL is real here. A small script replaces `pghc coordinator` and `pghc api`, because the
//! test is about supervision, not about the processes' work.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pghc_dev::deployment::{Deployment, DeploymentOptions, Error, Part, Profile, default_zones};
use pghc_dev::process::{command_line, signal};
use pghc_dev::record::{DeploymentRecord, FILE};
use pghc_dev::scratch::Scratch;
use pghc_wan::Matrix;

/// A script that ends at the end of its lifeline.
pub(super) const OBEDIENT: &str = "obedient.sh";
/// A script that ends at once.
pub(super) const BROKEN: &str = "broken.sh";

pub(super) fn script(name: &str) -> PathBuf {
    // Kept as a file: one that was just written could not be run while another test forks.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/dev").join(name)
}

fn options(scratch: &Scratch, zones: usize, program: &str) -> DeploymentOptions {
    DeploymentOptions {
        zones: default_zones(zones),
        data: Some(scratch.path().join("data")),
        binary: Some(script(program)),
        ..DeploymentOptions::default()
    }
}

/// `pghc dev` with one zone, as its own process.
fn supervisor(data: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pghc"));
    command.args(["dev", "--zones", "1", "--data"]).arg(data);
    command.arg("--binary").arg(script(OBEDIENT));
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it was built")
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) fn pids(record: &DeploymentRecord) -> Vec<u32> {
    let of_zone = |zone: &pghc_dev::record::ZoneRecord| {
        let mut pids = vec![zone.pids.postgres, zone.pids.coordinator];
        pids.extend(&zone.pids.api);
        pids
    };
    record.zones.iter().flat_map(of_zone).collect()
}

fn read(data: &Path) -> DeploymentRecord {
    DeploymentRecord::read(data).expect("a deployment runs here")
}

#[tokio::test]
async fn killed_child_restarts_with_new_pid_in_record() {
    let scratch = Scratch::new("it").unwrap();
    let deployment = Deployment::start(options(&scratch, 1, OBEDIENT)).await.unwrap();
    let before = read(deployment.data());
    assert_eq!(before, deployment.record());
    for part in [Part::Postgres, Part::Coordinator, Part::Api(0)] {
        let killed = deployment.kill("eu", part, Signal::SIGKILL).await.unwrap();
        assert!(killed.is_some_and(|pid| pids(&before).contains(&pid)));
        until("it runs again", || {
            deployment.pid("eu", part).is_some_and(|pid| Some(pid) != killed)
        })
        .await;
    }
    let after = read(deployment.data());
    assert!(pids(&after).iter().all(|pid| !pids(&before).contains(pid) && *pid > 1));
    let environment = std::fs::read(format!("/proc/{}/environ", after.zones[0].pids.coordinator));
    let environment = String::from_utf8(environment.unwrap()).unwrap();
    assert!(environment.contains("TOKIO_WORKER_THREADS="), "{environment}");
    assert_eq!(after.zones[0].dsn, before.zones[0].dsn);
    deployment.stop().await;
}

#[tokio::test]
async fn stopped_deployment_starts_again_with_same_identity() {
    let scratch = Scratch::new("it").unwrap();
    let options = options(&scratch, 2, OBEDIENT);
    let deployment = Deployment::start(options.clone()).await.unwrap();
    let first = deployment.record();
    deployment.stop().await;
    assert!(pids(&first).iter().all(|pid| command_line(*pid).is_none()));
    assert!(!deployment.data().join(FILE).exists());
    drop(deployment);
    let other = DeploymentOptions { zones: default_zones(3), ..options.clone() };
    assert!(matches!(Deployment::start(other).await, Err(Error::OtherZones { .. })));
    let deployment = Deployment::start(options).await.unwrap();
    let second = deployment.record();
    assert_eq!(second.cluster_id, first.cluster_id);
    assert_eq!(second.zones[1].dsn, first.zones[1].dsn, "ports are kept where they are free");
    deployment.stop().await;
}

#[tokio::test]
async fn killed_child_stays_dead_while_supervision_is_paused() {
    let scratch = Scratch::new("it").unwrap();
    let deployment = Deployment::start(options(&scratch, 1, OBEDIENT)).await.unwrap();
    let part = Part::Coordinator;
    deployment.pause_supervision("eu", part).await.unwrap();
    let mut events = deployment.events();
    deployment.kill("eu", part, Signal::SIGKILL).await.unwrap();
    until("it is dead", || deployment.pid("eu", part).is_none()).await;
    // An API node that comes back afterwards shows that time for the coordinator has passed too.
    deployment.kill("eu", Part::Api(0), Signal::SIGKILL).await.unwrap();
    while events.recv().await.unwrap().member.part != Part::Api(0) {}
    until("the API node runs again", || deployment.pid("eu", Part::Api(0)).is_some()).await;
    assert_eq!(deployment.pid("eu", part), None);
    assert_eq!(deployment.kill("eu", part, Signal::SIGKILL).await.unwrap(), None);
    deployment.resume_supervision("eu", part).await.unwrap();
    until("it runs again", || deployment.pid("eu", part).is_some()).await;
    deployment.stop().await;
}

#[tokio::test]
async fn a_program_that_never_stays_up_is_named_with_its_last_words() {
    let scratch = Scratch::new("it").unwrap();
    let deployment = Deployment::start(options(&scratch, 1, BROKEN)).await.unwrap();
    let error = deployment.ready(Duration::from_secs(60)).await.expect_err("nothing listens");
    assert!(matches!(error, Error::KeepsEnding { .. }), "{error}");
    assert!(error.to_string().contains("this cannot work"), "{error}");
    deployment.stop().await;
}

#[tokio::test]
async fn a_temporary_deployment_that_is_dropped_leaves_nothing() {
    let scratch = Scratch::new("it").unwrap();
    let options = DeploymentOptions { data: None, ..options(&scratch, 1, OBEDIENT) };
    let deployment = Deployment::start(options).await.unwrap();
    let (data, record) = (deployment.data().to_owned(), deployment.record());
    drop(deployment);
    until("all have ended", || pids(&record).iter().all(|pid| command_line(*pid).is_none())).await;
    until("the directory is gone", || !data.exists()).await;
}

#[tokio::test]
async fn deployment_of_killed_supervisor_is_taken_over() {
    let scratch = Scratch::new("it").unwrap();
    let options = options(&scratch, 1, OBEDIENT);
    let data = options.data.clone().unwrap();
    let mut supervisor = supervisor(&data);
    until("it runs", || DeploymentRecord::read(&data).is_ok()).await;
    let first = read(&data);
    assert!(matches!(Deployment::start(options.clone()).await, Err(Error::AlreadyRuns { .. })));
    // A stopped process notices nothing, not even the end of its lifeline.
    signal(first.zones[0].pids.coordinator, Signal::SIGSTOP);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let deployment = Deployment::start(options).await.expect("what is left is ended first");
    assert_eq!(deployment.record().cluster_id, first.cluster_id);
    let is_gone = |pid: &u32| command_line(*pid).is_none();
    until("all of the first have ended", || pids(&first).iter().all(is_gone)).await;
    deployment.stop().await;
}

#[tokio::test]
async fn pghc_dev_ends_cleanly_on_sigterm_at_any_step_of_its_start() {
    let steps = ["supervisor.json", "zones/eu/pg.new", "zones/eu/pg/postmaster.pid", FILE];
    for step in steps {
        let scratch = Scratch::new("it").unwrap();
        let data = scratch.path().join("data");
        let mut supervisor = supervisor(&data);
        // The new directory gets its name when it is complete, and may have it already.
        let past = data.join(step.trim_end_matches(".new"));
        until(step, || data.join(step).exists() || past.exists()).await;
        signal(supervisor.id(), Signal::SIGTERM);
        assert!(supervisor.wait().unwrap().success(), "{step}");
        assert!(!data.join(FILE).exists(), "{step}");
        assert!(!data.join("zones/eu/pg/postmaster.pid").exists(), "{step}");
    }
}

#[tokio::test]
async fn only_cross_zone_traffic_passes_the_emulator() {
    let scratch = Scratch::new("it").unwrap();
    let matrix: Matrix = "zone,eu,us,ap\neu,0,80,200\nus,80,0,150\nap,200,150,0\n".parse().unwrap();
    let options = DeploymentOptions {
        wan: Some(matrix),
        profile: Profile::Wan,
        ..options(&scratch, 3, OBEDIENT)
    };
    let deployment = Deployment::start(options).await.unwrap();
    let record = deployment.record();
    let line = command_line(record.zones[2].pids.api[0]).expect("it runs");
    let coordinators: Vec<&str> = line
        .windows(2)
        .filter(|pair| pair[0] == "--coordinator")
        .map(|pair| pair[1].as_str())
        .collect();
    assert_eq!(coordinators.len(), 3);
    assert_eq!(coordinators[0], record.zones[2].coordinator, "its own, directly");
    let direct: Vec<&str> = record.zones.iter().map(|zone| zone.coordinator.as_str()).collect();
    assert!(coordinators[1..].iter().all(|url| !direct.contains(url)), "others through the proxy");
    let line = command_line(record.zones[0].pids.coordinator).expect("it runs");
    assert!(line.contains(&format!("1=eu={}", direct[0])));
    assert!(!line.contains(&format!("2=us={}", direct[1])));
    assert!(line.windows(2).any(|pair| pair == ["--profile", "wan"]));
    assert!(line.windows(2).any(|pair| pair == ["--round-trip-ms", "200"]));
    deployment.stop().await;
}

/// A zombie keeps its number in the lock files of PostgreSQL, and a dying process its ports.
#[tokio::test]
async fn a_deployment_killed_whole_starts_again_at_once_on_its_ports() {
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("data");
    let mut supervisor = supervisor(&data);
    until("it runs", || DeploymentRecord::read(&data).is_ok()).await;
    let first = read(&data);
    for _ in 0..5 {
        let before = read(&data);
        let mut victims = pids(&before);
        victims.extend(children_of(before.zones[0].pids.postgres));
        victims.push(supervisor.id());
        victims.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
        let mut next = self::supervisor(&data);
        until("another one runs", || {
            assert!(next.try_wait().unwrap().is_none(), "it ended instead of starting");
            DeploymentRecord::read(&data).is_ok_and(|now| now.zones[0].pids != before.zones[0].pids)
        })
        .await;
        assert_eq!(read(&data).zones[0].dsn, first.zones[0].dsn);
        supervisor.wait().unwrap();
        supervisor = next;
    }
    signal(supervisor.id(), Signal::SIGTERM);
    assert!(supervisor.wait().unwrap().success());
}

fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields =
            stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned()).unwrap_or_default();
        fields.split(' ').nth(1) == Some(&parent.to_string())
    };
    pghc_dev::process::all().into_iter().filter(is_child).collect()
}
