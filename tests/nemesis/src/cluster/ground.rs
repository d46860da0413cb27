//! The machine under a cluster: a sandbox with a network and a disk per zone, or, without root,
//! plain directories and ports of this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Zones of every cluster.
pub const ZONES: usize = 3;
/// Their names.
pub const NAMES: [&str; ZONES] = ["eu", "us", "ap"];

/// Port of a coordinator.
const COORDINATOR: u16 = 7101;
/// Port of a zone's first API node; its others follow.
const API: u16 = 7201;
/// Port of a zone's PostgreSQL.
const POSTGRES: u16 = 5432;

/// Which build of `pghc` a process runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Build {
    /// The one under test.
    #[default]
    New,
    /// The other one.
    Old,
}

/// The ground.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Whether there is a sandbox; else only kills and pauses are possible.
    pub sandbox: bool,
    /// Images, mounts and logs.
    pub work: PathBuf,
    /// Directory of the binaries under test.
    pub bin: PathBuf,
    /// Directory of another build, which some processes run now and then.
    pub old: Option<PathBuf>,
    /// Names of the only classes of faults; all when empty.
    pub only: Vec<String>,
    /// Name of this run's control groups.
    pub group: String,
    /// First port without a sandbox.
    pub base: u16,
}

impl Ground {
    fn address(&self, zone: usize, port: u16, offset: usize) -> SocketAddr {
        let small = |number: usize| u16::try_from(number).expect("zones and nodes are few");
        if self.sandbox {
            let host = u8::try_from(zone + 1).expect("zones are few");
            return SocketAddr::from((Ipv4Addr::new(10, 77, 0, host), port + small(offset)));
        }
        let place = if port == COORDINATOR { 0 } else { 1 + usize::from(port != API) * 8 };
        let port = self.base + small(zone * 16 + place + offset);
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Where a zone's coordinator listens.
    pub fn coordinator(&self, zone: usize) -> SocketAddr {
        self.address(zone, COORDINATOR, 0)
    }

    /// Where a zone's API node listens.
    pub fn api(&self, zone: usize, node: usize) -> SocketAddr {
        self.address(zone, API, node)
    }

    /// Where a zone's PostgreSQL listens; a copy that takes its place has the other of two ports.
    pub fn postgres(&self, zone: usize, server: usize) -> SocketAddr {
        self.address(zone, POSTGRES, server % 2)
    }

    /// A command that runs in the network of a zone, with its own process id.
    pub fn command(&self, zone: usize, program: &Path) -> Command {
        if !self.sandbox {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/z{}", zone + 1)).arg(program);
        command
    }

    /// One of the binaries under test.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// `pghc` of a build.
    pub fn pghc(&self, build: Build) -> PathBuf {
        let other = self.old.as_ref().filter(|_| build == Build::Old);
        other.unwrap_or(&self.bin).join("pghc")
    }

    /// The flags that change which faults a seed means.
    pub fn flags(&self) -> String {
        let old = self.old.iter().map(|old| format!(" --old-binaries {}", old.display()));
        let only = (!self.only.is_empty()).then(|| format!(" --only {}", self.only.join(",")));
        old.chain(only).collect()
    }

    /// Directory of the logs.
    pub fn logs(&self) -> PathBuf {
        self.work.join("log")
    }

    /// Operating system user of the PostgreSQL servers when running as root.
    pub fn postgres_user() -> Option<(u32, u32)> {
        if !nix::unistd::Uid::effective().is_root() {
            return None;
        }
        let user = ["postgres", "nobody"]
            .iter()
            .find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
        user.map(|user| (user.uid.as_raw(), user.gid.as_raw()))
    }
}
