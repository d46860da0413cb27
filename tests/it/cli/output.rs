//! Output of commands: a closed reader is no failure, a full device is one.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use pghc::dev::process::signal;
use pghc::dev::scratch::Scratch;
use serde_json::Value;

use crate::harness::wait_for;
use crate::zones::cluster::{CLUSTER, SmallCluster};
use crate::zones::query;
use crate::zones::tamper::edit_with_digest;

fn command(line: &str) -> Command {
    let mut words = line.split(' ');
    let path = match words.next() {
        Some("pghc") => env!("CARGO_BIN_EXE_pghc"),
        Some("chain-verify") => env!("CARGO_BIN_EXE_chain-verify"),
        _ => env!("CARGO_BIN_EXE_geo-load"),
    };
    let mut command = Command::new(path);
    command.args(words).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs the command with a standard output whose reader is closed.
fn into_closed_pipe(line: &str) -> Output {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command(line).stdout(writer).output().expect("it was built")
}

fn into_full_device(line: &str) -> Output {
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    command(line).stdout(full).output().expect("it was built")
}

/// Checks a command that ends with `code` when it is read, and with `failed` when it cannot print.
#[track_caller]
fn prints(line: &str, code: i32, failed: i32) {
    let output = into_closed_pipe(line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(!said.contains("panicked") && !said.contains("not complete"), "{line}: {said}");
    let output = into_full_device(line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(failed), "{line}: {said}");
    assert!(said.contains("output is not complete") && said.contains("No space"), "{line}: {said}");
}

#[test]
fn output_ends_quietly_on_a_closed_pipe_not_on_a_full_disk() {
    for line in ["pghc --help", "pghc dev --help", "pghc --version", "pghc place --matrix aws9"] {
        prints(line, 0, 1);
    }
    for line in ["geo-load --help", "geo-load predict aws9", "geo-load predict aws9 --json"] {
        prints(line, 0, 2);
    }
    prints("chain-verify --help", 0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_about_a_cluster_print_as_all_do() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.write("eu", 1_000).await;
    let (dsn, api, coordinator) = (cluster.dsn("eu"), cluster.url("eu"), cluster.coordinator_url());
    let group = format!("--cluster-id {CLUSTER} --coordinator {coordinator}");
    for source in [format!("--database {dsn} --to 2"), format!("--api {api}")] {
        prints(&format!("pghc export {source}"), 0, 2);
        let output = into_closed_pipe(&format!("pghc export {source}"));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{source}");
    }
    prints(&format!("pghc status --api {api}"), 0, 1);
    prints(&format!("pghc status --api {api} --format json"), 0, 1);
    for act in ["members list", "zone list", "leader show"] {
        prints(&format!("pghc {act} {group}"), 0, 1);
    }
    prints(&format!("pghc zone audit --database {dsn} --coordinator {coordinator}"), 0, 2);
    for format in ["text", "json"] {
        let line = format!("--zone eu={dsn} --coordinator {coordinator} --format {format}");
        prints(&format!("chain-verify {line}"), 0, 2);
    }
    // Evidence counts more than an output that is lost.
    cluster.leave("eu").await;
    query(&dsn, &edit_with_digest(22)).await;
    prints(&format!("pghc export --database {dsn}"), 1, 1);
    prints(&format!("chain-verify --zone eu={dsn}"), 1, 1);
    prints(&format!("pghc zone audit --database {dsn} --coordinator {coordinator}"), 1, 1);
    cluster.stop().await;
}

/// A program of ours that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a process has a thread of this name.
fn has_thread(pid: u32, name: &str) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.into_iter().any(|comm| comm.trim() == name)
}

#[tokio::test]
async fn interrupted_run_reports_its_partial_results() {
    let scratch = Scratch::new("it").unwrap();
    let out = scratch.path().join("run");
    let line = format!("geo-load quick --virtual --seconds 20000 --out {}", out.display());
    let child = command(&line).stdout(Stdio::piped()).spawn().expect("it was built");
    let mut running = Running(child);
    let pid = running.0.id();
    wait_for("the run", async || has_thread(pid, "virtual run").then_some(())).await;
    signal(pid, Signal::SIGINT);
    let mut text = String::new();
    std::io::Read::read_to_string(running.0.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("INTERRUPTED: what follows is of the time until then"), "{text}");
    let summary = std::fs::read(Path::new(&out).join("summary.json")).expect("written");
    let summary: Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!(summary["interrupted"], true);
    let out = out.display();
    prints(&format!("geo-load report {out}"), 1, 2);
    prints(&format!("geo-load compare {out} {out}"), 0, 2);
}
