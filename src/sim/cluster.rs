//! A cluster's machines and the life of its processes: coordinators and API nodes start, stop and
//! die at once, for deployments in virtual time and for seeds under faults alike.
//!
//! Invariant: the hosts of the network are the machines, in their order, and then the places of API
//! nodes. A process that has ended changes nothing of its host's next one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::time::Micros;
use pghc_runtime::task::Tasks;
use pghc_runtime::task::process::Process;
use pghc_runtime::telemetry::{Metrics, describe};
use pghc_server::coordinator::{Acks, Coordinator, Environment, Geo, Retention, Settings, Timing};
use pghc_server::zone::{Identity, Node, Outside};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::database::SimDatabase;
use super::disk::SimDisk;
use super::net::{LinkModel, Net, url};
use super::rng::SeededRng;

/// Wall clock at the start of every run, in microseconds.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// A coordinator that has not stopped this long after the request is killed.
const RETIRE_MAX: Duration = Duration::from_secs(15);

/// Time between two polls of a coordinator that stops.
const RETIRE_EVERY: Duration = Duration::from_millis(5);

/// One coordinator's machine.
#[derive(Default)]
pub struct Machine {
    /// The disk of the log.
    pub log: SimDisk,
    /// The disk of the snapshot.
    pub snapshots: SimDisk,
    /// How far the wall clock is off, in microseconds.
    pub skew_us: Arc<AtomicI64>,
    /// With the token that stops the coordinator gracefully.
    running: Mutex<Option<(Process, CancellationToken)>>,
}

/// One API node's place.
pub struct Place {
    /// Its zone.
    pub zone: usize,
    name: String,
    /// The node is there when it has started.
    running: Mutex<Option<(Process, Option<Arc<Node>>)>>,
}

/// One zone.
pub struct Zone {
    /// Its name.
    pub name: ZoneName,
    /// Its database.
    pub database: SimDatabase,
    /// API nodes in it.
    pub api_nodes: usize,
}

/// The whole. Machine `n` stands in zone `n`, modulo the zones.
pub struct Cluster {
    /// All randomness of the cluster.
    pub rng: SeededRng,
    /// The network.
    pub net: Net,
    /// Raft's clocks.
    pub timing: Timing,
    /// Machines whose first coordinators found the group; their ids are the places and 1.
    pub voters: Vec<usize>,
    /// The machines.
    pub machines: Vec<Machine>,
    /// The zones.
    pub zones: Vec<Zone>,
    /// The API nodes' places, zone by zone.
    pub places: Vec<Place>,
    /// When the run began.
    pub started: Instant,
}

/// The id of every simulated cluster.
///
/// # Panics
/// Never: it is a UUID.
#[must_use]
pub fn cluster_id() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

impl Machine {
    /// A machine with faulty disks.
    #[must_use]
    pub fn faulty(rng: &SeededRng) -> Self {
        let (log, snapshots) = (SimDisk::faulty(rng.fork()), SimDisk::faulty(rng.fork()));
        Self { log, snapshots, ..Self::default() }
    }
}

impl Cluster {
    /// A cluster that does not run yet, on network links of `link_model`.
    #[must_use]
    pub fn new(
        rng: SeededRng,
        link_model: Arc<dyn LinkModel>,
        timing: Timing,
        voters: Vec<usize>,
        machines: Vec<Machine>,
        zones: Vec<Zone>,
    ) -> Arc<Self> {
        let place = |zone: usize, number: usize| Place {
            zone,
            name: format!("{}-{number}", zones[zone].name),
            running: Mutex::default(),
        };
        let of = |zone: usize| (1..=zones[zone].api_nodes).map(move |number| (zone, number));
        let all = (0..zones.len()).flat_map(of);
        let places: Vec<Place> = all.map(|(zone, number)| place(zone, number)).collect();
        let net = Net::new(machines.len() + places.len(), link_model);
        let started = Instant::now();
        Arc::new(Self { rng, net, timing, voters, machines, zones, places, started })
    }

    /// The host of an API node.
    #[must_use]
    pub fn host(&self, place: usize) -> usize {
        self.machines.len() + place
    }

    /// The zone of a machine.
    #[must_use]
    pub fn zone_at(&self, machine: usize) -> ZoneName {
        self.zones[machine % self.zones.len()].name.clone()
    }

    /// Settings of coordinator `id` on a machine. The founders' list never changes.
    #[must_use]
    pub fn settings(&self, machine: usize, id: u64) -> Settings {
        let named = |machine: usize, id: u64| (id, (self.zone_at(machine), url(machine)));
        let mut members: BTreeMap<_, _> =
            self.voters.iter().map(|founder| named(*founder, *founder as u64 + 1)).collect();
        let join = !members.contains_key(&id);
        members.extend([named(machine, id)]);
        Settings {
            cluster: cluster_id(),
            id,
            data: format!("c{}", machine + 1).into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 1)),
            members,
            join,
            zones: self.zones.iter().map(|zone| zone.name.clone()).collect(),
            timing: self.timing,
            geo: Geo::default(),
            retention: Retention::default(),
            acks: Acks::default(),
            metrics: Metrics::for_coordinator(),
        }
    }

    /// Starts a coordinator on a machine where none runs. `ended` hears why, if it ends without a
    /// request.
    pub fn start_coordinator(
        self: &Arc<Self>,
        machine: usize,
        settings: Settings,
        ended: impl FnOnce(&str) + Send + 'static,
    ) {
        let at = &self.machines[machine];
        let mut running = at.running.lock();
        if running.is_some() {
            return;
        }
        let process = Process::new(&format!("coordinator {}", settings.id), self.rng.next_u64());
        let retire = CancellationToken::new();
        *running = Some((process.clone(), retire.clone()));
        drop(running);
        self.net.up(machine, &process);
        let (net, skew_us, started) = (self.net.clone(), Arc::clone(&at.skew_us), self.started);
        let host = Environment {
            log: Arc::new(at.log.mount()),
            snapshots: Arc::new(at.snapshots.mount()),
            dial: Arc::new(self.net.dialer(machine)),
            serve: Box::new(move |routes, _| net.listen(machine, routes)),
            clock: Arc::new(move || {
                let since = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX / 2);
                Micros(EPOCH_US + since + skew_us.load(Ordering::Relaxed))
            }),
        };
        let (cluster, own) = (Arc::clone(self), process.clone());
        drop(process.spawn(async move {
            let why = match Coordinator::start_on(host, settings.listen, settings).await {
                Ok(coordinator) => tokio::select! {
                    biased;
                    why = coordinator.stopped() => Some(format!("stopped by itself: {why}")),
                    () = retire.cancelled() => {
                        coordinator.retire().await;
                        None
                    }
                },
                Err(error) => Some(format!("does not start: {}", describe(&error))),
            };
            if let Some(why) = why {
                ended(&why);
            }
            // A killed one leaves its host to the next.
            if !own.is_killed() {
                cluster.kill_coordinator(machine, false);
            }
        }));
    }

    /// Has a coordinator hand leadership over and stop, and kills it when it does not.
    pub async fn retire_coordinator(&self, machine: usize) {
        let running = &self.machines[machine].running;
        let Some((_, retire)) = running.lock().clone() else { return };
        retire.cancel();
        let until = Instant::now() + RETIRE_MAX;
        let is_there = || running.lock().as_ref().is_some_and(|(_, retire)| retire.is_cancelled());
        while is_there() && Instant::now() < until {
            sleep(RETIRE_EVERY).await;
        }
        if is_there() {
            self.kill_coordinator(machine, false);
        }
    }

    /// Ends a coordinator at this instant, with its machine's power or without. The disks stay.
    pub fn kill_coordinator(&self, machine: usize, with_power: bool) {
        let at = &self.machines[machine];
        let Some((process, _)) = at.running.lock().take() else { return };
        process.kill();
        for disk in [&at.log, &at.snapshots] {
            if with_power {
                disk.cut_power();
            } else {
                disk.detach();
            }
        }
        self.net.down(machine, !with_power);
    }

    /// The process of a coordinator, if it runs.
    #[must_use]
    pub fn coordinator(&self, machine: usize) -> Option<Process> {
        self.machines[machine].running.lock().as_ref().map(|(process, _)| process.clone())
    }

    /// Starts an API node that does not run, with the URLs of coordinators, nearest first.
    pub fn start_node(self: &Arc<Self>, place: usize, coordinators: Vec<String>) {
        let (at, host) = (&self.places[place], self.host(place));
        let mut running = at.running.lock();
        if running.is_some() {
            return;
        }
        let process = Process::new(&at.name, self.rng.next_u64());
        *running = Some((process.clone(), None));
        drop(running);
        self.net.up(host, &process);
        let zone = &self.zones[at.zone];
        let (one, two) = (self.rng.next_u64().to_be_bytes(), self.rng.next_u64().to_be_bytes());
        let outside = Outside {
            database: Arc::new(zone.database.clone()),
            dial: Arc::new(self.net.dialer(host)),
            session: [one, two].concat().try_into().expect("16 bytes"),
            own: None,
        };
        let identity = Identity {
            cluster: cluster_id(),
            zone: zone.name.clone(),
            node: at.name.parse().expect("a zone's name and a number"),
            api_url: String::new(),
            place: at.name.clone(),
        };
        let (cluster, own) = (Arc::clone(self), process.clone());
        drop(process.spawn(async move {
            let (tasks, metrics) = (Tasks::default(), Metrics::for_api_node(&[]));
            let node = Node::start_in(outside, identity, &coordinators, metrics, &tasks);
            let node = Arc::new(node.expect("these are URLs"));
            if let Some((_, slot)) = cluster.places[place].running.lock().as_mut()
                && !own.is_killed()
            {
                *slot = Some(node);
            }
            std::future::pending::<()>().await;
        }));
    }

    /// Ends an API node at this instant.
    pub fn kill_node(&self, place: usize) {
        let Some((process, _)) = self.places[place].running.lock().take() else { return };
        process.kill();
        self.net.down(self.host(place), true);
    }

    /// The process of an API node, if it runs, and the node, once it has started.
    #[must_use]
    pub fn node(&self, place: usize) -> Option<(Process, Option<Arc<Node>>)> {
        self.places[place].running.lock().clone()
    }
}
