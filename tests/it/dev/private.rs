//! Files of a deployment are private, whatever umask it inherits, and other users have no access.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::Uid;
use pghc_dev::postgres::Install;
use pghc_dev::record::{DeploymentRecord, FILE};
use pghc_dev::scratch::Scratch;

use crate::harness::{binary, client};

/// A user of this machine without any relation to the deployment.
const STRANGER: u32 = 54_321;

/// `pghc dev --detach` under a umask and in an environment that is hard to live in.
fn detach(data: &Path, umask: &str) -> Output {
    let script = format!("umask {umask}; ulimit -n 512; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(binary());
    command.args(["dev", "--detach", "--zones", "1", "--data"]).arg(data);
    command.env_remove("HOME").env("LANG", "xx_YY.UTF-8").env("LC_ALL", "xx_YY.UTF-8");
    command.env("TZ", "Pacific/Chatham").env("LANGUAGE", "xx");
    for (name, value) in [
        ("PGHOST", "nowhere.invalid"),
        ("PGPORT", "1"),
        ("PGUSER", "nobody"),
        ("PGDATA", "/nowhere"),
        ("PGOPTIONS", "-c nonsense=on"),
        ("PGSERVICE", "none"),
        ("PGSSLMODE", "verify-full"),
        ("PGCLIENTENCODING", "LATIN1"),
    ] {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).output().expect("sh is there")
}

fn stop(data: &Path) {
    let status = Command::new(binary()).args(["dev", "--stop"]).arg(data).output();
    assert!(status.expect("it was built").status.success());
}

/// Everything below a directory, but what PostgreSQL made in its own.
fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    found.push(directory.to_owned());
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if !path.is_dir() {
            found.push(path);
        } else if path.ends_with("pg") {
            found.push(path.clone());
            let ours = |name: &str| ["pghc.conf", "pg_hba.conf", "pg_ident.conf"].contains(&name);
            let files =
                fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable"));
            let files = files.filter(|entry| ours(&entry.file_name().to_string_lossy()));
            found.extend(files.map(|entry| entry.path()));
        } else {
            walk(&path, found);
        }
    }
}

#[track_caller]
fn everything_is_private(data: &Path) {
    let mut found = Vec::new();
    walk(data, &mut found);
    let log = data.join("zones/eu/coordinator/log");
    assert!(found.iter().any(|path| path.starts_with(&log)), "segments were looked at: {found:?}");
    for path in &found {
        let metadata = fs::symlink_metadata(path).expect("readable");
        let mode = metadata.permissions().mode() & 0o7777;
        let expected = match (metadata.is_dir(), Uid::effective().is_root()) {
            // PostgreSQL's user passes through.
            (true, true) => [0o700, 0o710],
            (true, false) => [0o700; 2],
            (false, _) => [0o600; 2],
        };
        assert!(expected.contains(&mode), "{} has mode {mode:o}", path.display());
        assert_ne!(metadata.uid(), STRANGER);
    }
}

async fn lives_with(umask: &str) {
    let scratch = Scratch::new("it").expect("a directory");
    // Made by pghc: two directories above the deployment's own.
    let data = scratch.path().join("srv/new/deployment");
    let output = detach(&data, umask);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let log = fs::read_to_string(data.join("log/supervisor.log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{log}");
    let record = DeploymentRecord::read(&data).expect("it runs");
    let answer = client().post(format!("{}/chain", record.zones[0].api[0])).send().await;
    assert!(answer.expect("answered").status().is_success());
    everything_is_private(&data);
    stop(&data);
    // A second start finds its own files again.
    assert!(detach(&data, umask).status.success());
    stop(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_lives_with_a_umask_that_takes_everything() {
    lives_with("0777").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_private_under_a_umask_that_takes_nothing() {
    lives_with("0000").await;
}

/// A program run by a user of this machine without any relation to the deployment.
fn as_stranger(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).uid(STRANGER).gid(STRANGER).current_dir("/").stdin(Stdio::null());
    command.env_remove("PGPASSWORD").output().expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn other_user_has_no_access_to_any_file() {
    if !Uid::effective().is_root() {
        println!("only root can be another user: nothing was tested");
        return;
    }
    let scratch = Scratch::new("it").unwrap();
    let data = scratch.path().join("deployment");
    assert!(detach(&data, "022").status.success());
    let record = DeploymentRecord::read(&data).expect("it runs");
    let psql = Install::find().unwrap().bin.join("psql");
    let zone = &record.zones[0];
    let port = zone.dsn.rsplit_once(':').unwrap().1.split_once('/').unwrap().0;
    let by_tcp = format!("postgres://postgres@127.0.0.1:{port}/pghc");
    for dsn in [&zone.dsn, &by_tcp] {
        let output = as_stranger(&psql, &[dsn, "-wXAtc", "select 7"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{dsn}: {output:?}");
    }
    let log = data.join("zones/eu/coordinator/log");
    let segment = fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    let deployment = data.join(FILE);
    for path in [&deployment, &segment, &data.join("log/eu-1.log"), &data.join("supervisor.json")] {
        assert!(fs::read(path).is_ok(), "{} is there", path.display());
        let output = as_stranger(Path::new("/bin/cat"), &[path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout.is_empty() && said.contains("Permission denied"), "{said}");
    }
    stop(&data);
}
