//! The parade itself: coordinators with their disks, databases and API nodes by zone; starting,
//! breaking and mending them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::time::Micros;
use pghc_api::wire::Status;
use pghc_runtime::task::Tasks;
use pghc_runtime::task::process::Process;
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{Acks, Coordinator, Environment, Geo, Retention, Settings, Timing};
use pghc_server::zone::{Identity, Node, Outside, Service as _};
use pghc_wan::Matrix;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::database::MemDatabase;
use super::disk::SimDisk;
use super::link_model::WanLinkModel;
use super::net::{Net, url};
use super::rng::SeededRng;

/// Wall clock at the start of every run, in microseconds.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// Time between two polls of a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A coordinator that has not stopped this long after the request is killed.
const RETIRE_MAX: Duration = Duration::from_secs(15);

/// Round trips up to which the settings for one place do.
const NEAR: Duration = Duration::from_millis(20);

/// Round trips up to which the settings for distances do.
const FAR: Duration = Duration::from_millis(350);

/// Options of a virtual parade.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Makes everything that is random.
    pub seed: u64,
    /// Zones, and how far apart they are.
    pub matrix: Matrix,
    /// Zones that vote, as places in the matrix; the others learn.
    pub voters: Vec<usize>,
    /// Whether coordinators count the acks of all voters, instead of waiting for the leader's report.
    pub all_to_all: bool,
    /// Whether automatic placement is on.
    pub auto: bool,
    /// API nodes in each zone.
    pub api_nodes: usize,
}

/// A member of the group and its machine.
struct Member {
    log: SimDisk,
    snapshots: SimDisk,
    /// With the token that stops it gracefully.
    running: Mutex<Option<(Process, CancellationToken)>>,
}

type Running = Option<(Process, Option<Arc<Node>>)>;

/// One zone.
pub(super) struct Zone {
    pub(super) name: ZoneName,
    member: Member,
    pub(super) database: MemDatabase,
    nodes: Vec<Mutex<Running>>,
}

struct Inner {
    plan: Plan,
    timing: Timing,
    net: Net,
    link_model: Arc<WanLinkModel>,
    zones: Vec<Zone>,
    rng: SeededRng,
    started: Instant,
    /// Coordinators that ended without a request.
    ended: Mutex<Vec<String>>,
}

/// A parade in virtual time. Clones are the same one.
#[derive(Clone)]
pub struct Parade(Arc<Inner>);

/// The cluster of every parade in virtual time.
///
/// # Panics
/// Never: it is a UUID.
#[must_use]
pub fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

/// Raft's clocks for these distances: a heartbeat must outlast a round trip.
#[must_use]
pub fn timing(matrix: &Matrix) -> Timing {
    let zones = matrix.zones();
    let pairs = zones.iter().flat_map(|a| zones.iter().map(move |b| matrix.round_trip(a, b)));
    let longest = pairs.max().unwrap_or_default();
    if longest <= NEAR {
        return Timing::LAN;
    }
    let wan = Timing::WAN;
    let factor = (longest.as_secs_f64() / FAR.as_secs_f64()).max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let scaled = |ms: u64| (ms as f64 * factor).ceil() as u64;
    Timing {
        heartbeat_ms: scaled(wan.heartbeat_ms),
        draw_min_ms: scaled(wan.draw_min_ms),
        lease_ms: scaled(wan.lease_ms),
    }
}

impl Parade {
    /// Starts everything but the learners, which [join](Self::settle) a founded group. Must be
    /// called in virtual time.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        let (count, api_nodes) = (plan.matrix.zones().len(), plan.api_nodes);
        let nodes = (0..count).flat_map(|zone| std::iter::repeat_n(zone, api_nodes));
        let zone_of: Vec<usize> = (0..count).chain(nodes).collect();
        let hosts = zone_of.len();
        let link_model = Arc::new(WanLinkModel::new(&plan.matrix, zone_of, plan.seed));
        let member = || Member {
            log: SimDisk::default(),
            snapshots: SimDisk::default(),
            running: Mutex::default(),
        };
        let zone = |name: &ZoneName| Zone {
            name: name.clone(),
            member: member(),
            database: MemDatabase::default(),
            nodes: (0..api_nodes).map(|_| Mutex::default()).collect(),
        };
        let zones = plan.matrix.zones().iter().map(zone).collect();
        let parade = Self(Arc::new(Inner {
            timing: timing(&plan.matrix),
            net: Net::new(hosts, Arc::clone(&link_model) as Arc<_>),
            link_model,
            zones,
            rng: SeededRng::raw(plan.seed),
            started: Instant::now(),
            ended: Mutex::default(),
            plan,
        }));
        for zone in 0..count {
            parade.start_coordinator(zone);
            (0..api_nodes).for_each(|node| parade.start_node(zone, node));
        }
        parade
    }

    /// The options that the parade was started with.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Raft's clocks.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    /// The network between the zones. After a cut or a healing the parade must be
    /// [notified](Self::note).
    #[must_use]
    pub fn link_model(&self) -> &WanLinkModel {
        &self.0.link_model
    }

    /// The network links have changed.
    pub fn note(&self) {
        self.0.net.note();
    }

    /// The database of a zone.
    #[must_use]
    pub fn database(&self, zone: usize) -> &MemDatabase {
        &self.0.zones[zone].database
    }

    /// Coordinators that ended without a request, in sentences.
    #[must_use]
    pub fn ended(&self) -> Vec<String> {
        self.0.ended.lock().clone()
    }

    fn random(&self) -> u64 {
        self.0.rng.next_u64()
    }

    fn node_host(&self, zone: usize, node: usize) -> usize {
        self.0.zones.len() + zone * self.0.plan.api_nodes + node
    }

    /// Starts a coordinator that does not run.
    pub fn start_coordinator(&self, zone: usize) {
        let member = &self.0.zones[zone].member;
        let mut running = member.running.lock();
        if running.is_some() {
            return;
        }
        let name = &self.0.zones[zone].name;
        let process = Process::new(&format!("coordinator {name}"), self.random());
        let retire = CancellationToken::new();
        *running = Some((process.clone(), retire.clone()));
        drop(running);
        let net = self.0.net.clone();
        net.up(zone, &process);
        let started = self.0.started;
        let host = Environment {
            log: Arc::new(member.log.mount()),
            snapshots: Arc::new(member.snapshots.mount()),
            dial: Arc::new(net.dialer(zone)),
            serve: Box::new(move |routes, _| net.listen(zone, routes)),
            clock: Arc::new(move || {
                let since = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX / 2);
                Micros(EPOCH_US + since)
            }),
        };
        let (settings, parade) = (self.settings(zone), self.clone());
        drop(process.spawn(async move {
            let why = match Coordinator::start_on(host, settings.listen, settings).await {
                Ok(coordinator) => tokio::select! {
                    biased;
                    why = coordinator.stopped() => why,
                    () = retire.cancelled() => {
                        coordinator.retire().await;
                        return parade.kill_coordinator(zone);
                    }
                },
                Err(error) => pghc_runtime::telemetry::describe(&error),
            };
            let name = &parade.0.zones[zone].name;
            parade.0.ended.lock().push(format!("the coordinator of {name} ended: {why}"));
        }));
    }

    fn settings(&self, zone: usize) -> Settings {
        let Plan { matrix, voters, .. } = &self.0.plan;
        let named = |zone: usize| (zone as u64 + 1, (matrix.zones()[zone].clone(), url(zone)));
        Settings {
            cluster: cluster(),
            id: zone as u64 + 1,
            data: PathBuf::from(format!("c{}", zone + 1)),
            listen: SocketAddr::from(([127, 0, 0, 1], 1)),
            members: voters.iter().copied().chain([zone]).map(named).collect::<BTreeMap<_, _>>(),
            join: !voters.contains(&zone),
            zones: matrix.zones().to_vec(),
            timing: self.0.timing,
            geo: Geo { auto: self.0.plan.auto, ..Geo::default() },
            retention: Retention::default(),
            acks: if self.0.plan.all_to_all { Acks::AllToAll } else { Acks::Leader },
            metrics: Metrics::for_coordinator(),
        }
    }

    /// Starts an API node that does not run.
    pub fn start_node(&self, zone: usize, node: usize) {
        let at = &self.0.zones[zone];
        let mut running = at.nodes[node].lock();
        if running.is_some() {
            return;
        }
        let name = format!("{}-{}", at.name, node + 1);
        let process = Process::new(&name, self.random());
        *running = Some((process.clone(), None));
        drop(running);
        let host = self.node_host(zone, node);
        self.0.net.up(host, &process);
        let session = u128::from(self.random()) << 64 | u128::from(self.random());
        let outside = Outside {
            database: Arc::new(at.database.clone()),
            dial: Arc::new(self.0.net.dialer(host)),
            session: session.to_be_bytes(),
            own: None,
        };
        let identity = Identity {
            cluster: cluster(),
            zone: at.name.clone(),
            node: name.parse().expect("a zone's name and a number"),
            api_url: String::new(),
            place: name,
        };
        let (coordinators, parade, own) = (self.nearest(zone), self.clone(), process.clone());
        drop(process.spawn(async move {
            let (tasks, metrics) = (Tasks::default(), Metrics::for_api_node(&[]));
            let started = Node::start_in(outside, identity, &coordinators, metrics, &tasks);
            let started = Arc::new(started.expect("these are URLs"));
            if let Some((_, slot)) = parade.0.zones[zone].nodes[node].lock().as_mut()
                && !own.is_killed()
            {
                *slot = Some(started);
            }
            std::future::pending::<()>().await;
        }));
    }

    /// URLs of the coordinators, nearest first.
    fn nearest(&self, zone: usize) -> Vec<String> {
        let matrix = &self.0.plan.matrix;
        let zones = matrix.zones();
        let mut places: Vec<usize> = (0..zones.len()).collect();
        places.sort_by_key(|other| (matrix.round_trip(&zones[zone], &zones[*other]), *other));
        // A zone that is next door in the matrix does not come before the own one.
        places.sort_by_key(|other| *other != zone);
        places.into_iter().map(url).collect()
    }

    /// An API node and its process, if it runs.
    #[must_use]
    pub fn node(&self, zone: usize, node: usize) -> Option<(Process, Arc<Node>)> {
        let running = self.0.zones[zone].nodes[node].lock().clone()?;
        Some((running.0, running.1?))
    }

    /// The process of a coordinator, if it runs.
    #[must_use]
    pub fn coordinator(&self, zone: usize) -> Option<Process> {
        self.0.zones[zone].member.running.lock().as_ref().map(|(process, _)| process.clone())
    }

    /// Tells a coordinator to hand leadership over and to stop, and kills it when it does not.
    pub async fn stop_coordinator(&self, zone: usize) {
        let running = &self.0.zones[zone].member.running;
        let Some((_, retire)) = running.lock().clone() else { return };
        retire.cancel();
        let until = Instant::now() + RETIRE_MAX;
        while running.lock().is_some() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
        self.kill_coordinator(zone);
    }

    /// Ends a coordinator at this instant. Its disk stays.
    pub fn kill_coordinator(&self, zone: usize) {
        let running = self.0.zones[zone].member.running.lock().take();
        if let Some((process, _)) = running {
            process.kill();
            self.0.net.down(zone, true);
        }
    }

    /// Ends an API node at this instant.
    pub fn kill_node(&self, zone: usize, node: usize) {
        let running = self.0.zones[zone].nodes[node].lock().take();
        if let Some((process, _)) = running {
            process.kill();
            self.0.net.down(self.node_host(zone, node), true);
        }
    }

    /// Status of the group, as reported by the first API node of a zone.
    pub async fn status(&self, zone: usize) -> Option<Status> {
        let (_, node) = self.node(zone, 0)?;
        Some(node.status().await)
    }

    /// Caller of a coordinator, for commands: as from an API node of its zone.
    pub(super) fn caller(&self, zone: usize) -> Option<pghc_runtime::rpc::Caller> {
        use pghc_runtime::rpc::Dial as _;
        let dialer = self.0.net.dialer(self.node_host(zone, 0));
        dialer.caller(&url(zone), &cluster(), Duration::from_secs(5)).ok()
    }

    /// The zones.
    pub(super) fn zones(&self) -> &[Zone] {
        &self.0.zones
    }

    /// Waits until `is` says yes; returns whether it did within `most`.
    pub(super) async fn wait(&self, most: Duration, mut is: impl AsyncFnMut() -> bool) -> bool {
        let until = Instant::now() + most;
        while !is().await {
            if Instant::now() >= until {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }
}
