//! `pghc dev --detach` and `--stop`: what they answer, whatever dies meanwhile.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use pghc_dev::deployment::Supervisor;
use pghc_dev::postgres::Install;
use pghc_dev::process::{identity, signal};
use pghc_dev::record::{DeploymentRecord, FILE};
use pghc_dev::scratch::Scratch;

use super::deployment::{BROKEN, OBEDIENT, pids, script, until};
use crate::harness::{binary, client};
use crate::zones::query;
use crate::zones::tamper::rewrite_from;

fn detach(data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["dev", "--detach", "--zones", "1", "--data"]).arg(data).args(more);
    command.stdin(Stdio::null());
    command
}

fn stop(data: &Path) -> Output {
    let output = Command::new(binary()).args(["dev", "--stop"]).arg(data).output();
    output.expect("it was built")
}

#[track_caller]
fn check(output: &Output, code: i32, said: &[&str]) {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    let both = String::from_utf8_lossy(&both);
    assert_eq!(output.status.code(), Some(code), "{both}");
    for said in said {
        assert!(both.contains(said), "{said:?} is not in:\n{both}");
    }
}

fn nothing_is_left(data: &Path, record: &DeploymentRecord) {
    let living: Vec<_> = pids(record).into_iter().filter(|pid| identity(*pid).is_some()).collect();
    assert!(living.is_empty(), "processes are left: {living:?}");
    assert!(!data.join(FILE).exists() && !data.join("supervisor.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_deployment_takes_writes_until_it_is_stopped() {
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("a new/deployment");
    let shown = data.display().to_string();
    check(&stop(&data), 2, &["there is no deployment in", &shown]);
    check(&detach(&data, &[]).output().unwrap(), 0, &["ready after", "pghc dev --stop", &shown]);
    let record = DeploymentRecord::read(&data).expect("it runs");
    let url = format!("{}/chain", record.zones[0].api[0]);
    let answer = client().post(url).send().await.expect("answered");
    assert!(answer.status().is_success());
    assert_eq!(answer.headers().get("access-control-allow-origin"), None);
    let psql = Install::find().unwrap().bin.join("psql");
    let asked = Command::new(psql).arg(&record.zones[0].dsn).args(["-XAtc", "select 7"]).output();
    assert_eq!(asked.unwrap().stdout, b"7\n", "the dsn works as it stands");
    let already = ["already runs on", &shown, "pghc dev --stop"];
    check(&detach(&data, &[]).output().unwrap(), 2, &already);
    check(&stop(&data), 0, &["nothing is left running"]);
    nothing_is_left(&data, &record);
    check(&stop(&data), 0, &["nothing was running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_deployment_is_reported_with_its_last_words() {
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("deployment");
    let broken = script(BROKEN);
    let output = detach(&data, &["--binary", broken.to_str().unwrap()]).output().unwrap();
    check(&output, 1, &["ends again and again", "this cannot work", "supervisor.log"]);
    assert!(!data.join(FILE).exists());
    check(&stop(&data), 0, &["nothing was running"]);
}

/// Nothing of it answers, so it is not ready for as long as the test takes.
#[tokio::test(flavor = "multi_thread")]
async fn processes_of_dead_supervisor_are_stopped() {
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("deployment");
    let obedient = script(OBEDIENT);
    let mut detach = detach(&data, &["--binary", obedient.to_str().unwrap()]);
    let detach = detach.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it runs", || DeploymentRecord::read(&data).is_ok()).await;
    let record = DeploymentRecord::read(&data).unwrap();
    let supervisor = Supervisor::read(&data).unwrap().expect("it runs");
    assert!(supervisor.runs() && !supervisor.ready);
    // A stopped process does not notice the end of its lifeline.
    signal(record.zones[0].pids.coordinator, Signal::SIGSTOP);
    signal(supervisor.pid, Signal::SIGKILL);
    let output = detach.wait_with_output().unwrap();
    check(&output, 1, &["the deployment is not up", "signal: 9", "supervisor.log"]);
    // A group of processes that is orphaned while one of them is stopped gets SIGHUP and SIGCONT from the kernel, so
    // the coordinator may have ended before.
    check(&stop(&data), 0, &["nothing ", " running"]);
    nothing_is_left(&data, &record);
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_keeps_running_with_a_halted_zone() {
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("deployment");
    check(&detach(&data, &[]).output().unwrap(), 0, &["ready after"]);
    let record = DeploymentRecord::read(&data).expect("it runs");
    let url = format!("{}/chain", record.zones[0].api[0]);
    for _ in 0..3 {
        assert!(client().post(&url).send().await.expect("answered").status().is_success());
    }
    query(&record.zones[0].dsn, &rewrite_from(2)).await;
    check(&stop(&data), 0, &["nothing is left running"]);
    let said = [
        "the deployment runs, and not every zone takes writes",
        "the first bad id is 2 ",
        "reseed",
    ];
    check(&detach(&data, &[]).output().unwrap(), 1, &said);
    let record = DeploymentRecord::read(&data).expect("it runs");
    assert!(pids(&record).into_iter().all(|pid| identity(pid).is_some()), "something has ended");
    check(&stop(&data), 0, &["nothing is left running"]);
    nothing_is_left(&data, &record);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_the_background_that_is_interrupted_leaves_nothing() {
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("deployment");
    let obedient = script(OBEDIENT);
    let mut detach = detach(&data, &["--binary", obedient.to_str().unwrap()]);
    let detach = detach.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it runs", || DeploymentRecord::read(&data).is_ok()).await;
    let record = DeploymentRecord::read(&data).unwrap();
    signal(detach.id(), Signal::SIGINT);
    let output = detach.wait_with_output().unwrap();
    check(&output, 1, &["interrupted", "the deployment was stopped"]);
    nothing_is_left(&data, &record);
}
