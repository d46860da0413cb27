//! A cluster in one thread: coordinators with their disks, zones with their databases and API
//! nodes, and what became of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::chain::Link;
use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::time::Micros;
use pghc_history::History;
use pghc_runtime::task::Tasks;
use pghc_runtime::task::process::Process;
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{Acks, Coordinator, Environment, Geo, Retention, Settings, Timing};
use pghc_server::zone::{Identity, Node, Outside};
use pghc_sim::{SeededRng, SimDisk};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::model::ModelDatabase;
use super::net::{Net, url};

/// Wall clock at the start of every run, in microseconds.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// A coordinator that has not stopped this long after the request is killed.
const RETIRE_MAX: Duration = Duration::from_secs(15);

/// One coordinator's machine.
pub(crate) struct Machine {
    log: SimDisk,
    snapshots: SimDisk,
    directory: PathBuf,
    /// Owner of the machine; without one it is ready for a new coordinator.
    owner: Mutex<Option<Owner>>,
    running: Mutex<Option<Running>>,
    skew_us: Arc<AtomicI64>,
}

/// The coordinator that has a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) id: u64,
    pub(crate) standing: Standing,
}

/// Standing of a coordinator in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The coordinator must never be refused.
    Sound,
    /// The disks were wiped: the coordinator must be refused before it votes.
    Wiped,
    /// The coordinator was removed: at its next start it may be refused.
    Removed,
    /// One of the last two, which was refused.
    Refused,
}

struct Running {
    process: Process,
    /// Stops the coordinator gracefully.
    retire: CancellationToken,
}

/// One API node's place.
pub(crate) struct Place {
    pub(crate) zone: usize,
    host: usize,
    name: String,
    running: Mutex<Option<(Process, Option<Arc<Node>>)>>,
}

/// One zone.
pub(crate) struct Zone {
    pub(crate) name: ZoneName,
    pub(crate) database: ModelDatabase,
    /// Whether commits wait for its disk.
    pub(crate) on_disk: bool,
}

/// The whole.
pub(crate) struct SimCluster {
    pub(crate) seed: u64,
    /// Simulated seconds of the whole run.
    pub(crate) seconds: u64,
    pub(crate) rng: SeededRng,
    pub(crate) net: Net,
    pub(crate) timing: Timing,
    pub(crate) machines: Vec<Machine>,
    pub(crate) zones: Vec<Zone>,
    pub(crate) places: Vec<Place>,
    pub(crate) history: Mutex<History>,
    /// The faults are over.
    pub(crate) is_calm: AtomicBool,
    /// A fault is changing the members, or has forged a zone.
    pub(crate) is_changing: AtomicBool,
    /// Coordinators that found the group; the last machine is a spare one.
    pub(crate) founders: usize,
    next_id: AtomicU64,
    /// Of every coordinator that was ever started.
    metrics: Mutex<Vec<Arc<Metrics>>>,
    retention: Retention,
    started: Instant,
}

/// Every zone must follow it: the one chain, as first committed anywhere.
#[derive(Default)]
struct Reference(Vec<Link>);

pub(crate) fn cluster_id() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

/// Runs one seed again; how long it runs changes what happens.
pub(crate) const REPLAY: &str = "cargo --config tests/sim/profile.toml run -p pghc-seeds -- run";

/// Ends the run: a promise is broken.
pub(crate) fn fail((seed, seconds): (u64, u64), started: Instant, what: &str) -> ! {
    let at = started.elapsed().as_secs_f64();
    println!("seed {seed}: at {at:.3} s: {what}");
    println!("replay: {REPLAY} --seed {seed} --seconds {seconds}");
    std::process::exit(1)
}

impl Reference {
    /// Compares what a zone committed with what any zone has committed before.
    fn check(&mut self, zone: usize, links: &[Link], from: usize) -> Result<(), String> {
        for (place, link) in links.iter().enumerate().skip(from) {
            if link.id.get() != place as u64 + 1 {
                return Err(format!("zone {zone} has id {} in place {}", link.id, place + 1));
            }
            match self.0.get(place) {
                Some(known) if known == link => {}
                Some(known) => {
                    return Err(format!(
                        "zone {zone} forks at {}: {link:?}, not {known:?}",
                        link.id
                    ));
                }
                None => self.0.push(link.clone()),
            }
        }
        Ok(())
    }
}

impl SimCluster {
    /// A cluster that does not run yet. Its shape comes from the seed.
    pub(crate) fn new(seed: u64, seconds: u64, directory: &std::path::Path) -> Arc<Self> {
        let rng = SeededRng::new(seed);
        let started = Instant::now();
        let founders = rng.pick(&[3, 3, 3, 5]);
        let coordinators = founders + 1;
        let per_zone: Vec<usize> = (0..3).map(|_| rng.pick(&[1, 2])).collect();
        let nodes: usize = per_zone.iter().sum();
        let is_wide = rng.per_mille(250);
        let delay_us = if is_wide { (10_000, 60_000) } else { (200, 2_000) };
        let net = Net::new(coordinators + nodes, delay_us, rng.fork());
        let founder = |place: usize| Owner { id: place as u64 + 1, standing: Standing::Sound };
        let machine = |place: usize| Machine {
            owner: Mutex::new((place < founders).then(|| founder(place))),
            log: SimDisk::faulty(rng.fork()),
            snapshots: SimDisk::faulty(rng.fork()),
            directory: directory.join(format!("c{}", place + 1)),
            running: Mutex::default(),
            skew_us: Arc::default(),
        };
        let machines: Vec<Machine> = (0..coordinators).map(machine).collect();
        let reference = Arc::new(Mutex::new(Reference::default()));
        let zone = |number: usize| {
            let (reference, on_disk) = (Arc::clone(&reference), rng.per_mille(800));
            let committed = Arc::new(move |links: &[Link], from: usize| {
                if let Err(what) = reference.lock().check(number, links, from) {
                    fail((seed, seconds), started, &what);
                }
            });
            let name = ["eu", "us", "ap"][number].parse().expect("a plain name");
            Zone { name, database: ModelDatabase::new(rng.fork(), on_disk, committed), on_disk }
        };
        let zones: Vec<Zone> = (0..3).map(zone).collect();
        let mut places = Vec::new();
        for (zone, count) in per_zone.into_iter().enumerate() {
            for number in 1..=count {
                let host = coordinators + places.len();
                let name = format!("{}-{number}", zones[zone].name);
                places.push(Place { zone, host, name, running: Mutex::default() });
            }
        }
        let log_bytes = rng.pick(&[0, 1 << 20, 1 << 30]);
        let retention = Retention {
            log_bytes,
            // No zone is filled from another one here: none may be cut off from the log.
            log_bytes_max: u64::MAX,
            snapshot_entries: rng.pick(&[50, 300, 100_000]),
            period: Duration::from_millis(rng.pick(&[500, 2000])),
            ..Retention::default()
        };
        let timing = if is_wide { Timing::WAN } else { Timing::LAN };
        Arc::new(Self {
            seed,
            seconds,
            rng,
            net,
            timing,
            machines,
            zones,
            places,
            history: Mutex::default(),
            is_calm: AtomicBool::new(false),
            is_changing: AtomicBool::new(false),
            founders,
            next_id: AtomicU64::new(coordinators as u64),
            metrics: Mutex::default(),
            retention,
            started,
        })
    }

    /// Ends the run: a promise is broken.
    pub(crate) fn fail(&self, what: &str) -> ! {
        fail((self.seed, self.seconds), self.started, what)
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("short runs")
    }

    pub(crate) fn fault(&self, class: &str) {
        *self.history.lock().faults.entry(class.to_owned()).or_default() += 1;
        tracing::info!(class, "FAULT");
    }

    /// Starts a coordinator that does not run, if the machine is anybody's.
    pub(crate) fn start_coordinator(self: &Arc<Self>, place: usize) {
        let machine = &self.machines[place];
        let Some(Owner { id, .. }) = self.owner(place) else { return };
        let mut running = machine.running.lock();
        if running.is_some() {
            return;
        }
        let process = Process::new(&format!("coordinator {id}"), self.rng.next_u64());
        let retire = CancellationToken::new();
        *running = Some(Running { process: process.clone(), retire: retire.clone() });
        drop(running);
        self.net.up(place, &process);
        let (net, skew, started) = (self.net.clone(), Arc::clone(&machine.skew_us), self.started);
        let host = Environment {
            log: Arc::new(machine.log.mount()),
            snapshots: Arc::new(machine.snapshots.mount()),
            dial: Arc::new(self.net.dialer(place)),
            serve: Box::new(move |routes, _| net.listen(place, routes)),
            clock: Arc::new(move || {
                let since = i64::try_from(started.elapsed().as_micros()).expect("short runs");
                Micros(EPOCH_US + since + skew.load(Ordering::Relaxed))
            }),
        };
        let settings = self.settings(place, id);
        let cluster = Arc::clone(self);
        let owner = process.clone();
        drop(process.spawn(async move {
            let why = match Coordinator::start_on(host, settings.listen, settings).await {
                Ok(coordinator) => {
                    let ended = tokio::select! {
                        biased;
                        why = coordinator.stopped() => Some(why),
                        () = retire.cancelled() => None,
                    };
                    match ended {
                        Some(why) => format!("stopped by itself: {why}"),
                        None => {
                            coordinator.retire().await;
                            return cluster.end_coordinator(place, &owner);
                        }
                    }
                }
                Err(error) => {
                    format!("does not start: {}", pghc_runtime::telemetry::describe(&error))
                }
            };
            cluster.refused(place, &why);
            cluster.end_coordinator(place, &owner);
        }));
    }

    /// Settings of coordinator `id` on machine `place`. The founders' list never changes.
    fn settings(&self, place: usize, id: u64) -> Settings {
        let named = |at: usize, id: u64| (id, (self.zone_at(at), url(at)));
        let founders = (0..self.founders).map(|at| named(at, at as u64 + 1));
        let metrics = Metrics::for_coordinator();
        self.metrics.lock().push(Arc::clone(&metrics));
        Settings {
            cluster: cluster_id(),
            id,
            data: self.machines[place].directory.clone(),
            listen: SocketAddr::from(([127, 0, 0, 1], 1)),
            members: founders.chain([named(place, id)]).collect(),
            join: id > self.founders as u64,
            zones: self.zones.iter().map(|zone| zone.name.clone()).collect(),
            timing: self.timing,
            geo: Geo::default(),
            retention: self.retention,
            acks: self.acks(place),
            metrics,
        }
    }

    /// Batches that coordinators sequenced by acks, before the leader reported the commit.
    pub(crate) fn early(&self) -> u64 {
        self.metrics.lock().iter().map(|it| it.coordinator.commits_from_acks().get()).sum()
    }

    /// Whether the coordinators of a seed count acks: all in most seeds, none in some, and each
    /// machine at random in others.
    fn acks(&self, place: usize) -> Acks {
        match self.seed % 8 {
            0 => Acks::Leader,
            1 if (self.seed / 8 + place as u64).is_multiple_of(2) => Acks::Leader,
            _ => Acks::AllToAll,
        }
    }

    /// The zone of a machine.
    pub(crate) fn zone_at(&self, place: usize) -> ZoneName {
        self.zones[place % self.zones.len()].name.clone()
    }

    /// A coordinator has ended: only one that must not take part may end, with advice.
    fn refused(&self, place: usize, why: &str) {
        let mut owner = self.machines[place].owner.lock();
        let Some(owner) = owner.as_mut() else { return };
        let is_right = match owner.standing {
            Standing::Sound => false,
            Standing::Wiped => why.contains("pghc members replace"),
            Standing::Removed => why.contains("it was removed"),
            Standing::Refused => true,
        };
        if !is_right {
            let Owner { id, standing } = *owner;
            self.fail(&format!("coordinator {id} ({standing:?}) {why}"));
        }
        owner.standing = Standing::Refused;
    }

    /// Removes the remains of a process that has ended by itself.
    fn end_coordinator(&self, place: usize, process: &Process) {
        let machine = &self.machines[place];
        if process.is_killed() {
            return;
        }
        drop(machine.running.lock().take());
        process.kill();
        machine.log.detach();
        machine.snapshots.detach();
        self.net.down(place, true);
    }

    /// Tells a coordinator to stop and waits until it has; kills it when it does not.
    pub(crate) async fn retire_coordinator(&self, place: usize) {
        let running = &self.machines[place].running;
        let Some(retire) = running.lock().as_ref().map(|it| it.retire.clone()) else { return };
        retire.cancel();
        let until = Instant::now() + RETIRE_MAX;
        let is_there =
            || running.lock().as_ref().is_some_and(|running| running.retire.is_cancelled());
        while is_there() && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
        if is_there() {
            self.kill_coordinator(place, false);
        }
    }

    /// The owner of a machine.
    pub(crate) fn owner(&self, place: usize) -> Option<Owner> {
        *self.machines[place].owner.lock()
    }

    /// Sets the standing of a machine's coordinator.
    pub(crate) fn stands(&self, place: usize, standing: Standing) {
        if let Some(owner) = self.machines[place].owner.lock().as_mut() {
            owner.standing = standing;
        }
    }

    /// Empties a machine's disks; its processes have ended.
    pub(crate) fn wipe(&self, place: usize) {
        self.kill_coordinator(place, true);
        let machine = &self.machines[place];
        machine.log.wipe();
        machine.snapshots.wipe();
    }

    /// Empties a machine and gives it to a new coordinator, whose id is returned, or to none.
    pub(crate) fn pass_on(&self, place: usize, to_new: bool) -> u64 {
        self.wipe(place);
        let id = self.next_id.load(Ordering::Relaxed);
        let owner = to_new.then_some(Owner { id, standing: Standing::Sound });
        self.next_id.fetch_add(u64::from(to_new), Ordering::Relaxed);
        *self.machines[place].owner.lock() = owner;
        id
    }

    /// Whether a power cut would leave a founder that knows it has founded the group.
    pub(crate) fn has_founded(&self, place: usize) -> bool {
        self.machines[place].snapshots.keeps("identity.json", "\"founded\": true")
    }

    /// Ends a coordinator at this instant, with its machine's power or without.
    pub(crate) fn kill_coordinator(&self, place: usize, with_power: bool) {
        let machine = &self.machines[place];
        let Some(Running { process, .. }) = machine.running.lock().take() else { return };
        process.kill();
        for disk in [&machine.log, &machine.snapshots] {
            if with_power {
                disk.cut_power();
            } else {
                disk.detach();
            }
        }
        self.net.down(place, !with_power);
    }

    pub(crate) fn coordinator(&self, place: usize) -> Option<Process> {
        self.machines[place].running.lock().as_ref().map(|running| running.process.clone())
    }

    /// Sets the sync time of a coordinator's disk, in microseconds.
    pub(crate) fn slow_disk(&self, place: usize, low: u64, high: u64) {
        self.machines[place].log.set_sync(low, high);
    }

    /// Sets a coordinator's wall clock off.
    pub(crate) fn skew(&self, place: usize, by_us: i64) {
        self.machines[place].skew_us.store(by_us, Ordering::Relaxed);
    }

    /// Starts an API node that does not run.
    pub(crate) fn start_node(self: &Arc<Self>, place: usize) {
        let at = &self.places[place];
        let mut running = at.running.lock();
        if running.is_some() {
            return;
        }
        let process = Process::new(&at.name, self.rng.next_u64());
        *running = Some((process.clone(), None));
        drop(running);
        self.net.up(at.host, &process);
        let zone = &self.zones[at.zone];
        let (one, two) = (self.rng.next_u64().to_be_bytes(), self.rng.next_u64().to_be_bytes());
        let outside = Outside {
            database: Arc::new(zone.database.clone()),
            dial: Arc::new(self.net.dialer(at.host)),
            session: [one, two].concat().try_into().expect("16 bytes"),
            own: None,
        };
        let node = at.name.parse().expect("a plain name");
        let api_url = String::new();
        let (zone, address) = (zone.name.clone(), at.name.clone());
        let identity = Identity { cluster: cluster_id(), zone, node, api_url, place: address };
        let count = self.founders;
        let nearest_first: Vec<String> = (0..count).map(|n| url((at.zone + n) % count)).collect();
        let cluster = Arc::clone(self);
        let owner = process.clone();
        drop(process.spawn(async move {
            let (tasks, metrics) = (Tasks::default(), Metrics::for_api_node(&[]));
            let node = Node::start_in(outside, identity, &nearest_first, metrics, &tasks);
            let node = Arc::new(node.expect("these are URLs"));
            if let Some((process, slot)) = cluster.places[place].running.lock().as_mut()
                && !owner.is_killed()
                && !process.is_killed()
            {
                *slot = Some(node);
            }
            std::future::pending::<()>().await;
        }));
    }

    pub(crate) fn kill_node(&self, place: usize) {
        let at = &self.places[place];
        let Some((process, _)) = at.running.lock().take() else { return };
        process.kill();
        self.net.down(at.host, true);
    }

    /// An API node and its process, if it runs.
    pub(crate) fn node(&self, place: usize) -> Option<(Process, Option<Arc<Node>>)> {
        self.places[place].running.lock().clone()
    }

    /// Whether every zone has applied the same, and how far each is.
    pub(crate) fn frontiers(&self) -> (bool, Vec<u64>) {
        let frontiers: Vec<u64> = self.zones.iter().map(|zone| zone.database.frontier()).collect();
        (frontiers.iter().all(|it| *it == frontiers[0]), frontiers)
    }
}
