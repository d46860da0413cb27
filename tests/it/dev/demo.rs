//! `scripts/demo` with programs that die: it ends with a reason, at whichever step.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// Writes an executable shell script.
fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a file that can be written");
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(path, mode).expect("our file");
}

/// Runs `scripts/demo` with a `pghc` whose `dev --detach` does this; nothing is built.
fn demo(detach: &str) -> Output {
    let place = tempfile::tempdir().expect("a directory");
    let bin = place.path().join("debug");
    std::fs::create_dir(&bin).expect("an empty directory");
    script(&place.path().join("cargo"), "exit 0");
    let pghc = format!("case \"$*\" in *--detach*) {detach} ;; esac");
    script(&bin.join("pghc"), &pghc);
    let path = std::env::var("PATH").expect("a search path");
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo"));
    command.env("PATH", format!("{}:{path}", place.path().display()));
    command.env("CARGO_TARGET_DIR", place.path());
    command.output().expect("bash is there")
}

#[test]
fn demo_names_failed_step_with_reason() {
    let killed = "kill -9 $$";
    let nothing = "exit 0";
    let refused = "echo 'pghc: no room' >&2; exit 2";
    for (detach, words) in [
        (killed, &["demo: Starting three zones: ", "failed with 137"][..]),
        (nothing, &["demo: Starting three zones: ", "does not name three zones"]),
        (refused, &["pghc: no room", "demo: Starting three zones: ", "failed with 2"]),
    ] {
        let output = demo(detach);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{detach}: {said}");
        for word in words {
            assert!(said.contains(word), "{detach}: {word:?} is not in {said:?}");
        }
    }
}

/// `cargo build --bins` alone builds the programs of the root package only.
#[test]
fn demo_builds_every_program_that_it_runs() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo");
    let text = std::fs::read_to_string(root).expect("the script");
    let build = text.lines().find(|line| line.starts_with("cargo build")).expect("a build");
    for (program, package) in [("pghc", "pghc"), ("chain-verify", "pghc"), ("geo-load", "geo-load")]
    {
        assert!(text.contains(&format!("\"$bin/{program}\"")), "{program} is not run");
        assert!(build.contains(&format!("-p {package}")), "{build} builds no {package}");
    }
}
