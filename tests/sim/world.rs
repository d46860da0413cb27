//! A cluster in one thread: coordinators with their disks, zones with their databases and API
//! nodes, and what became of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc::coordinator::{Coordinator, Host, Retention, Settings, Timing};
use pghc::task::Tasks;
use pghc::task::process::Process;
use pghc::telemetry::Metrics;
use pghc::zone::{Identity, Node, Outside};
use pghc_api::chain::Link;
use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::time::Micros;
use pghc_history::History;
use tokio::time::Instant;

use super::dice::Dice;
use super::disk::SimDisk;
use super::net::{Net, url};
use super::twin::Twin;

/// Wall clock at the start of every run, in microseconds.
const EPOCH_US: i64 = 1_700_000_000_000_000;

/// One coordinator's machine.
pub(crate) struct Machine {
    pub(crate) id: u64,
    log: SimDisk,
    snapshots: SimDisk,
    directory: PathBuf,
    running: Mutex<Option<Process>>,
    skew_us: Arc<AtomicI64>,
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
    pub(crate) database: Twin,
    /// Whether commits wait for its disk.
    pub(crate) on_disk: bool,
}

/// The whole.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) dice: Dice,
    pub(crate) net: Net,
    pub(crate) timing: Timing,
    pub(crate) machines: Vec<Machine>,
    pub(crate) zones: Vec<Zone>,
    pub(crate) places: Vec<Place>,
    pub(crate) history: Mutex<History>,
    /// The faults are over.
    pub(crate) is_calm: AtomicBool,
    retention: Retention,
    started: Instant,
}

/// Every zone must follow it: the one chain, as first committed anywhere.
#[derive(Default)]
struct Reference(Vec<Link>);

pub(crate) fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

/// Ends the run: a promise is broken.
pub(crate) fn fail(seed: u64, started: Instant, what: &str) -> ! {
    let at = started.elapsed().as_secs_f64();
    println!("seed {seed}: at {at:.3} s: {what}");
    println!("replay: cargo test --features simulation --test sim -- run --seed {seed}");
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

impl World {
    /// A cluster that does not run yet. Its shape comes from the seed.
    pub(crate) fn new(seed: u64, directory: &std::path::Path) -> Arc<Self> {
        let dice = Dice::new(seed);
        let started = Instant::now();
        let coordinators = dice.pick(&[3, 3, 3, 5]);
        let per_zone: Vec<usize> = (0..3).map(|_| dice.pick(&[1, 2])).collect();
        let nodes: usize = per_zone.iter().sum();
        let is_wide = dice.per_mille(250);
        let delay_us = if is_wide { (10_000, 60_000) } else { (200, 2_000) };
        let net = Net::new(coordinators + nodes, delay_us, dice.fork());
        let machine = |place: usize| Machine {
            id: place as u64 + 1,
            log: SimDisk::new(dice.fork()),
            snapshots: SimDisk::new(dice.fork()),
            directory: directory.join(format!("c{}", place + 1)),
            running: Mutex::default(),
            skew_us: Arc::default(),
        };
        let machines: Vec<Machine> = (0..coordinators).map(machine).collect();
        let reference = Arc::new(Mutex::new(Reference::default()));
        let zone = |number: usize| {
            let (reference, on_disk) = (Arc::clone(&reference), dice.per_mille(800));
            let committed = Arc::new(move |links: &[Link], from: usize| {
                if let Err(what) = reference.lock().check(number, links, from) {
                    fail(seed, started, &what);
                }
            });
            let name = ["eu", "us", "ap"][number].parse().expect("a plain name");
            Zone { name, database: Twin::new(dice.fork(), on_disk, committed), on_disk }
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
        let log_bytes = dice.pick(&[0, 1 << 20, 1 << 30]);
        let retention = Retention {
            log_bytes,
            // No zone is filled from another one here: none may be cut off from the log.
            log_bytes_max: u64::MAX,
            snapshot_entries: dice.pick(&[50, 300, 100_000]),
            period: Duration::from_millis(dice.pick(&[500, 2000])),
            ..Retention::default()
        };
        let timing = if is_wide { Timing::WAN } else { Timing::LAN };
        Arc::new(Self {
            seed,
            dice,
            net,
            timing,
            machines,
            zones,
            places,
            history: Mutex::default(),
            is_calm: AtomicBool::new(false),
            retention,
            started,
        })
    }

    /// Ends the run: a promise is broken.
    pub(crate) fn fail(&self, what: &str) -> ! {
        fail(self.seed, self.started, what)
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("short runs")
    }

    pub(crate) fn fault(&self, class: &str) {
        *self.history.lock().faults.entry(class.to_owned()).or_default() += 1;
        tracing::info!(class, "FAULT");
    }

    pub(crate) fn start_all(self: &Arc<Self>) {
        (0..self.machines.len()).for_each(|place| self.start_coordinator(place));
        (0..self.places.len()).for_each(|place| self.start_node(place));
    }

    /// Starts a coordinator that does not run.
    pub(crate) fn start_coordinator(self: &Arc<Self>, place: usize) {
        let machine = &self.machines[place];
        let mut running = machine.running.lock();
        if running.is_some() {
            return;
        }
        let process = Process::new(&format!("coordinator {}", machine.id), self.dice.roll());
        *running = Some(process.clone());
        drop(running);
        self.net.up(place, &process);
        let (net, skew, started) = (self.net.clone(), Arc::clone(&machine.skew_us), self.started);
        let host = Host {
            log: Arc::new(machine.log.mount()),
            snapshots: Arc::new(machine.snapshots.mount()),
            dial: Arc::new(self.net.dialer(place)),
            serve: Box::new(move |routes, _| net.listen(place, routes)),
            clock: Arc::new(move || {
                let since = i64::try_from(started.elapsed().as_micros()).expect("short runs");
                Micros(EPOCH_US + since + skew.load(Ordering::Relaxed))
            }),
        };
        let member = |(at, machine): (usize, &Machine)| {
            (machine.id, (self.zones[at % self.zones.len()].name.clone(), url(at)))
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let settings = Settings {
            cluster: cluster(),
            id: machine.id,
            data: machine.directory.clone(),
            listen: address,
            members: self.machines.iter().enumerate().map(member).collect(),
            join: false,
            zones: self.zones.iter().map(|zone| zone.name.clone()).collect(),
            timing: self.timing,
            retention: self.retention,
            metrics: Metrics::for_coordinator(),
        };
        let world = Arc::clone(self);
        let id = machine.id;
        drop(process.spawn(async move {
            match Coordinator::start_on(host, address, settings).await {
                Ok(coordinator) => {
                    let why = coordinator.stopped().await;
                    world.fail(&format!("coordinator {id} stopped by itself: {why}"));
                }
                Err(error) => world.fail(&format!(
                    "coordinator {id} does not start: {}",
                    pghc::telemetry::describe(&error)
                )),
            }
        }));
    }

    /// Ends a coordinator at this instant, with its machine's power or without.
    pub(crate) fn kill_coordinator(&self, place: usize, with_power: bool) {
        let machine = &self.machines[place];
        let Some(process) = machine.running.lock().take() else { return };
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
        self.machines[place].running.lock().clone()
    }

    /// Makes a coordinator's disk take so long for a sync, in microseconds.
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
        let process = Process::new(&at.name, self.dice.roll());
        *running = Some((process.clone(), None));
        drop(running);
        self.net.up(at.host, &process);
        let zone = &self.zones[at.zone];
        let (one, two) = (self.dice.roll().to_be_bytes(), self.dice.roll().to_be_bytes());
        let outside = Outside {
            database: Arc::new(zone.database.clone()),
            dial: Arc::new(self.net.dialer(at.host)),
            session: [one, two].concat().try_into().expect("16 bytes"),
            own: None,
        };
        let node = at.name.parse().expect("a plain name");
        let api_url = String::new();
        let identity = Identity { cluster: cluster(), zone: zone.name.clone(), node, api_url };
        let count = self.machines.len();
        let nearest_first: Vec<String> = (0..count).map(|n| url((at.zone + n) % count)).collect();
        let world = Arc::clone(self);
        let owner = process.clone();
        drop(process.spawn(async move {
            let (tasks, metrics) = (Tasks::default(), Metrics::for_api_node(&[]));
            let node = Node::start_in(outside, identity, &nearest_first, metrics, &tasks);
            let node = Arc::new(node.expect("these are URLs"));
            if let Some((process, slot)) = world.places[place].running.lock().as_mut()
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
