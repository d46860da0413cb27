//! The guide works as written: the blocks of commands in `deploy/*.md` are run as they stand, in order, on machines
//! of namespaces, with what breaks in between (`stories/`). `DESIGN.md` says how.
//!
//! Needs root and what `scripts/prepare --guide` installs; elsewhere it says what is missing and passes, unless
//! `PGHC_GUIDE=required`.

use std::path::Path;
use std::process::Command;

/// Longest time of a story in seconds; every wait inside is bounded by 90 s.
const STORY_SECONDS_MAX: &str = "1500";

/// What the machines share with this one; the first word of each is a program.
const PROGRAMS: &[&str] = &[
    "unshare",
    "nsenter",
    "ip",
    "setpriv",
    "openssl",
    "curl",
    "stunnel",
    "promtool",
    "prometheus",
];

fn missing(more: &[&str]) -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    let folders = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    for program in PROGRAMS.iter().chain(more) {
        if !folders.iter().any(|folder| Path::new(folder).join(program).exists()) {
            missing.push((*program).to_owned());
        }
    }
    for path in ["/usr/lib/postgresql/15/bin/postgres", "/usr/bin/pg_createcluster"] {
        if !Path::new(path).exists() {
            missing.push(path.to_owned());
        }
    }
    missing
}

/// Tells a story to its end.
///
/// # Panics
/// If a block of the page fails, or afterwards something is not as the page says.
fn tell(story: &str, more: &[&str]) {
    let missing = missing(more);
    if !missing.is_empty() {
        let missing = missing.join(", ");
        assert!(std::env::var_os("PGHC_GUIDE").is_none(), "missing: {missing}");
        eprintln!("not run: the story {story} needs {missing} (scripts/prepare --guide, as root)");
        return;
    }
    let work = tempfile::Builder::new().prefix("pghc-guide-").tempdir().expect("a directory");
    let repository = env!("CARGO_MANIFEST_DIR");
    let programs = Path::new(env!("CARGO_BIN_EXE_pghc")).parent().expect("it lies in a directory");
    assert!(Path::new(env!("CARGO_BIN_EXE_chain-verify")).starts_with(programs));
    // Whatever dies, the kernel ends all that is inside.
    let output = Command::new("timeout")
        .args(["--kill-after=5", STORY_SECONDS_MAX, "unshare"])
        .args(["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(format!("{repository}/tests/guide/run.sh"))
        .args([Path::new(repository), programs, work.path(), Path::new(story)])
        .output()
        .expect("timeout is of coreutils");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "the story {story} ended with {}:\n{said}", output.status);
    println!("{said}");
}

#[test]
fn the_guide_works_as_written() {
    tell("guide", &["pgbackrest"]);
}

#[test]
#[ignore = "three minutes; scripts/test --long"]
fn the_patroni_page_works_as_written() {
    tell("patroni", &["patroni", "etcd"]);
}
