//! Runs programs as a person does at a console, and looks at what they print; shared with tests/lab.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use crate::path_of;

/// In every connection string that must never be printed.
pub(crate) const PASSWORD: &str = "sesame";

/// A command line: a program of ours and its arguments, split at spaces.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let mut command = Command::new(path_of(words.next().expect("a program")));
    command.args(words).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a program with arguments, split at spaces.
pub(crate) fn run(program: &str, line: &str) -> Output {
    command(&format!("{program} {line}")).output().expect("it was built")
}

/// Checks that a command line is refused with `code`, in one line that holds each of `names`.
#[track_caller]
pub(crate) fn refuses(program: &str, line: &str, code: i32, names: &[&str]) {
    let output = run(program, line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{program} {line}: {said}");
    let last = said.trim_end().lines().next_back().unwrap_or_default();
    let about: Vec<&str> = said.lines().filter(|line| *line != "starting a deployment").collect();
    assert_eq!(about.len(), 1, "{program} {line}: one line:\n{said}");
    for name in names {
        assert!(last.contains(name), "{program} {line}: {name:?} is not in {last:?}");
    }
    let all = said + &String::from_utf8_lossy(&output.stdout);
    assert!(!all.contains(PASSWORD), "{program} {line}: a password was printed");
}

/// Runs the command with a standard output whose reader is closed.
pub(crate) fn into_closed_pipe(line: &str) -> Output {
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
pub(crate) fn prints(line: &str, code: i32, failed: i32) {
    let output = into_closed_pipe(line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(!said.contains("panicked") && !said.contains("not complete"), "{line}: {said}");
    let output = into_full_device(line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(failed), "{line}: {said}");
    assert!(said.contains("output is not complete") && said.contains("No space"), "{line}: {said}");
}
