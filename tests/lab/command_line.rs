//! The command line: exit codes, messages of one line that name the thing, and output that is lost.

use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use pghc_dev::process::signal;
use pghc_dev::scratch::Scratch;
use serde_json::Value;

use crate::harness::console::{command, prints, refuses, run};
use crate::harness::wait_for;

#[test]
fn geo_load_refuses_bad_arguments_by_name() {
    refuses("geo-load", "quick --nope", 2, &["'--nope'"]);
    refuses("geo-load", "quick --rate 0", 2, &["--rate", "above 0"]);
    refuses("geo-load", "quick --wan /no/such.csv", 2, &["/no/such.csv", "No such file"]);
    refuses("geo-load", "quick --against /no/such", 2, &["/no/such"]);
    refuses("geo-load", "bench --only fast", 2, &["--only", "fast"]);
    refuses("geo-load", "bench --rounds 0", 2, &["--rounds", "1..=100"]);
    refuses("geo-load", "bench --synchronous-commit no", 2, &["'no'", "on, off"]);
    refuses("geo-load", "bench scale --zones 1,12", 2, &["--zones", "\"12\"", "1 to 9"]);
    for flag in ["--help", "--version"] {
        let output = run("geo-load", flag);
        assert!(output.status.success() && !output.stdout.is_empty(), "{flag}");
        assert!(output.stderr.is_empty());
    }
    let output = run("geo-load", "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Commands:"), "the help");
}

#[test]
fn geo_load_names_the_place_of_a_bad_matrix() {
    let scratch = Scratch::new("lab").expect("a directory");
    let path = scratch.path().join("matrix.csv");
    let file = path.display().to_string();
    std::fs::write(&path, "zone,eu,us\neu,0,x\nus,1,0\n").expect("written");
    refuses("geo-load", &format!("quick --wan {file}"), 2, &[&file, "line 2, column 3", "\"x\""]);
}

#[test]
fn last_event_of_json_log_names_the_bad_argument() {
    let mut command = command("geo-load quick --rate 0");
    let output = command.env("PGHC_LOG_FORMAT", "json").output().expect("it was built");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Value = serde_json::from_str(log.lines().last().expect("a log")).expect("JSON");
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert_eq!((&last["message"], &last["exit_code"]), (&"process ended".into(), &2.into()));
    assert!(last["error"].as_str().expect("a reason").contains("--rate"), "{last}");
}

#[test]
fn geo_load_ends_quietly_on_closed_pipe_not_on_full_disk() {
    for line in ["geo-load --help", "geo-load predict aws9", "geo-load predict aws9 --json"] {
        prints(line, 0, 2);
    }
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
