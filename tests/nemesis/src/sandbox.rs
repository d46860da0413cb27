//! The sandbox: namespaces of network, processes and mounts in which everything runs and dies.
//!
//! The program starts itself three times. The *outer* process waits, and clears up what outlives
//! namespaces (control groups, the working directory). The *init* is process 1 of the new process
//! namespace; it reaps orphans, such as the backends of a killed postmaster. The *run* does the work.
//! However one of them dies, the kernel takes everything below with it: processes, mounts, loop
//! devices, interfaces and packet filters.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Tells a process started by us which of the three it is.
const STAGE: &str = "PGHC_NEMESIS_STAGE";
/// Tells it the name of the control groups.
const GROUP: &str = "PGHC_NEMESIS_GROUP";

/// Where control groups (version 1) are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The controllers that faults use.
pub const CONTROLLERS: [&str; 3] = ["cpu", "freezer", "memory"];

/// Programs that the sandbox and the faults call.
const TOOLS: [&str; 10] = [
    "setpriv",
    "unshare",
    "nsenter",
    "ip",
    "nft",
    "tc",
    "mount",
    "mkfs.ext4",
    "fallocate",
    "strace",
];

/// Namespaces of the sandbox.
const NAMESPACES: [&str; 7] =
    ["--net", "--pid", "--mount", "--ipc", "--fork", "--kill-child", "--mount-proc"];

/// Which of the three processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Started by a person.
    Outer,
    /// Process 1 of the namespace.
    Init,
    /// The one that works.
    Run,
}

impl Stage {
    /// Settings from the environment.
    pub fn current() -> Self {
        match std::env::var(STAGE).as_deref() {
            Ok("init") => Self::Init,
            Ok("run") => Self::Run,
            _ => Self::Outer,
        }
    }
}

/// Why this machine gives us no sandbox; `None` if it does.
pub fn refusal() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("we are not root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let missing = |tool: &&str| !folders.iter().any(|folder| folder.join(tool).is_file());
    let missing: Vec<&str> = TOOLS.into_iter().filter(missing).collect();
    if !missing.is_empty() {
        return Some(format!("{} not installed", missing.join(", ")));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".to_owned());
    }
    // A container may have root and yet not be allowed to.
    let probe =
        [&["unshare"], NAMESPACES.as_slice(), &["ip", "link", "add", "br0", "type", "bridge"]];
    tool(&probe.concat()).err().map(|error| format!("{error:#}"))
}

/// Name of this run's control groups. The outer process gives it on, so that it can remove them.
pub fn group_name() -> String {
    std::env::var(GROUP).unwrap_or_else(|_| format!("pghc-nemesis-{}", std::process::id()))
}

/// Runs this very command line again inside a new sandbox and waits for its exit code. `args` are
/// put behind it.
pub async fn enter(args: &[String]) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("our own path")?;
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare"]).args(NAMESPACES).arg(program);
    command
        .args(std::env::args_os().skip(1))
        .args(args)
        .env(STAGE, "init")
        .env(GROUP, group_name());
    let mut child = command.spawn().context("start unshare")?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let status = tokio::select! {
        biased;
        status = child.wait() => status?,
        _ = term.recv() => { child.kill().await?; child.wait().await? }
        // From a terminal the sandbox gets the signal too and ends; then the wait is short.
        _ = tokio::signal::ctrl_c() => { child.kill().await?; child.wait().await? }
    };
    clear_groups(&group_name());
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(130))
}

/// Removes the control groups of a run, whose processes have ended.
fn clear_groups(name: &str) {
    for controller in CONTROLLERS {
        let top = Path::new(CGROUPS).join(controller).join(name);
        for entry in std::fs::read_dir(&top).into_iter().flatten().flatten() {
            // Files in it are the controller's own; they go with their directory.
            let _ = std::fs::remove_dir(entry.path());
        }
        let _ = std::fs::remove_dir(top);
    }
}

/// Process 1: starts the run, reaps every orphan, and ends with the run.
pub fn init() -> anyhow::Result<ExitCode> {
    let mut command = Command::new(std::env::current_exe()?);
    let child = command.args(std::env::args_os().skip(1)).env(STAGE, "run").spawn()?;
    let run = i32::try_from(child.id())?;
    loop {
        let status = waitpid(Pid::from_raw(-1), None)?;
        if status.pid() == Some(Pid::from_raw(run)) {
            return Ok(match status {
                WaitStatus::Exited(_, code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
                _ => ExitCode::from(130),
            });
        }
    }
}

/// Runs a tool to its end and answers what it printed.
///
/// # Errors
/// With what it wrote to standard error when it failed.
pub fn tool(line: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(line[0]);
    let output = command.args(&line[1..]).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {line:?}"))?;
    if !output.status.success() {
        bail!("{}: {}", line.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Gives `script` to `program` on its standard input.
///
/// # Errors
/// With what it wrote to standard error when it failed.
pub fn script(program: &[&str], script: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {program:?}"))?;
    child.stdin.take().context("its standard input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program:?}: {}\n{script}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Builds the network: a bridge with our own address, and a namespace `z1`, `z2`, … per zone joined
/// to it by `v1`–`e0` and so on.
///
/// # Errors
/// When a tool fails; the namespaces go with us in any case.
pub fn build_network(zones: usize) -> anyhow::Result<()> {
    tool(&["mount", "--make-rprivate", "/"])?;
    // Named namespaces and shared memory leave files behind otherwise.
    std::fs::create_dir_all("/run/netns")?;
    tool(&["mount", "-t", "tmpfs", "none", "/run/netns"])?;
    tool(&["mount", "-t", "tmpfs", "none", "/dev/shm"])?;
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add br0 type bridge".to_owned(),
        "link set br0 up".to_owned(),
        "addr add 10.77.0.254/24 dev br0".to_owned(),
    ];
    for zone in 1..=zones {
        lines.extend([
            format!("netns add z{zone}"),
            format!("link add v{zone} type veth peer name e0 netns z{zone}"),
            format!("link set v{zone} master br0 up"),
            format!("-n z{zone} link set lo up"),
            format!("-n z{zone} link set e0 up"),
            format!("-n z{zone} addr add 10.77.0.{zone}/24 dev e0"),
        ]);
    }
    for line in lines {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
        tool(&words)?;
    }
    Ok(())
}
