//! Starting the children of a deployment for the first time: databases, then coordinators, then API
//! nodes. The command lines of `pghc coordinator` and `pghc api` are written here and nowhere else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use pghc_api::id::ZoneName;

use super::Error;
use super::options::{Acks, Profile};
use super::plan::{Plan, ZonePlan};
use super::process_table::{Member, Part};
use super::program::{Body, Program};
use super::routes::Routes;
use super::stale_processes::postgres_dir;
use crate::postgres::{Server, ServerOptions};
use crate::process::Process;
use crate::record::{DeploymentRecord, Pids, ZoneRecord};

/// The inputs of all command lines.
pub(super) struct LaunchPlan<'a> {
    pub(super) data: &'a Path,
    pub(super) binary: &'a Path,
    pub(super) plan: &'a Plan,
    pub(super) routes: &'a Routes,
    pub(super) profile: Profile,
    /// The largest round trip between zones.
    pub(super) round_trip_ms: Option<u64>,
    pub(super) acks: Acks,
    pub(super) settings: &'a [(String, String)],
    pub(super) temporary: bool,
}

/// Directory of the children's logs.
pub(super) fn logs(data: &Path) -> PathBuf {
    data.join("log")
}

/// The log of a child.
pub(super) fn log_of(data: &Path, member: &Member) -> PathBuf {
    logs(data).join(format!("{member}.log"))
}

impl LaunchPlan<'_> {
    /// Creates and starts all databases at once and waits until each answers.
    pub(super) async fn start_servers(&self) -> Result<Vec<(Member, Body)>, Error> {
        let start = |zone: &ZonePlan| {
            let member = Member { zone: zone.name.clone(), part: Part::Postgres };
            let options = ServerOptions {
                log: log_of(self.data, &member),
                settings: self.settings.to_vec(),
                temporary: self.temporary,
                ..ServerOptions::new(postgres_dir(self.data, zone.name.as_str()), zone.postgres)
            };
            async move {
                let zone = member.zone.to_string();
                match Server::start(options).await {
                    Ok(server) => Ok((member, Body::Server { server: Box::new(server), zone })),
                    Err(source) => Err(Error::Postgres { zone, source }),
                }
            }
        };
        let started = futures::future::join_all(self.plan.zones.iter().map(start)).await;
        started.into_iter().collect()
    }

    /// The programs, not started: all coordinators, then all API nodes, which find their database by
    /// its zone in `dsns`.
    pub(super) fn programs(&self, dsns: &Dsns) -> Vec<(Member, Body)> {
        let mut programs = Vec::new();
        for (index, zone) in self.plan.zones.iter().enumerate() {
            let member = Member { zone: zone.name.clone(), part: Part::Coordinator };
            programs.push(self.program(member, self.coordinator(index + 1, zone)));
        }
        for zone in &self.plan.zones {
            for (node, port) in zone.api.iter().enumerate() {
                let member = Member { zone: zone.name.clone(), part: Part::Api(node) };
                let arguments = self.api(&member, zone, *port, &dsns[&zone.name]);
                programs.push(self.program(member, arguments));
            }
        }
        programs
    }

    fn program(&self, member: Member, arguments: Vec<OsString>) -> (Member, Body) {
        let program = Program {
            binary: self.binary.to_owned(),
            arguments,
            log: log_of(self.data, &member),
            threads: threads(processors(), self.plan.zones.len()),
            process: Process::default(),
        };
        (member, Body::Program(Box::new(program)))
    }

    fn coordinator(&self, id: usize, zone: &ZonePlan) -> Vec<OsString> {
        let mut line = self.common("coordinator", zone, zone.coordinator);
        push(&mut line, "--id", id.to_string());
        let directory = self.data.join("zones").join(zone.name.as_str()).join("coordinator");
        push(&mut line, "--data", directory);
        for (index, (name, url)) in self.routes.coordinators(&zone.name).iter().enumerate() {
            push(&mut line, "--member", format!("{}={name}={url}", index + 1));
        }
        push(&mut line, "--profile", self.profile.as_str());
        if let Some(round_trip_ms) = self.round_trip_ms {
            push(&mut line, "--round-trip-ms", round_trip_ms.to_string());
        }
        push(&mut line, "--acks", self.acks.as_str());
        line
    }

    fn api(&self, member: &Member, zone: &ZonePlan, port: u16, dsn: &str) -> Vec<OsString> {
        let mut line = self.common("api", zone, port);
        push(&mut line, "--node", member.to_string());
        push(&mut line, "--database", dsn);
        for url in self.routes.nearest_first(&zone.name) {
            push(&mut line, "--coordinator", url);
        }
        // Every zone of a deployment reaches every other over loopback.
        push(
            &mut line,
            "--advertise",
            format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        );
        // Pages of this machine; any other could write too.
        push(&mut line, "--cors-origin", "localhost");
        // No load balancer polls a deployment.
        push(&mut line, "--drain-s", "0");
        line
    }

    fn common(&self, command: &str, zone: &ZonePlan, port: u16) -> Vec<OsString> {
        let mut line = vec![command.into()];
        push(&mut line, "--cluster-id", self.plan.cluster_id.as_str());
        push(&mut line, "--zone", zone.name.as_str());
        push(&mut line, "--listen", SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string());
        line.push("--lifeline".into());
        line
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Worker threads of each program: its zone's share of the processors. With more, many a wake-up wakes a
/// second thread that finds nothing to do, on a processor that another zone needs.
fn threads(processors: usize, zones: usize) -> usize {
    (processors / zones.max(1)).max(1)
}

fn push(line: &mut Vec<OsString>, flag: &str, value: impl Into<OsString>) {
    line.push(flag.into());
    line.push(value.into());
}

/// Connection strings of the zones' databases.
pub(super) type Dsns = BTreeMap<ZoneName, String>;

/// Connection strings of the running servers.
pub(super) fn dsns(servers: &[(Member, Body)]) -> Dsns {
    let dsn = |(member, body): &(Member, Body)| match body {
        Body::Server { server, .. } => Some((member.zone.clone(), server.dsn())),
        Body::Program(_) => None,
    };
    servers.iter().filter_map(dsn).collect()
}

/// Where everything of `plan` will be; no process ids yet. `wan` is the emulator's URL.
pub(super) fn record(plan: &Plan, dsns: &Dsns, wan: Option<String>) -> DeploymentRecord {
    let url = |port: u16| format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let zone = |zone: &ZonePlan| ZoneRecord {
        name: zone.name.clone(),
        dsn: dsns[&zone.name].clone(),
        api: zone.api.iter().map(|port| url(*port)).collect(),
        coordinator: url(zone.coordinator),
        pids: Pids { api: vec![0; zone.api.len()], ..Pids::default() },
    };
    let zones = plan.zones.iter().map(zone).collect();
    DeploymentRecord { cluster_id: plan.cluster_id.clone(), zones, wan }
}

#[cfg(test)]
mod tests {
    use super::threads;

    #[test]
    fn worker_threads_are_zone_share_of_processors() {
        assert_eq!([threads(2, 3), threads(3, 3), threads(16, 3), threads(8, 1)], [1, 1, 5, 8]);
    }
}
