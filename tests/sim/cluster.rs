//! A cluster under faults: its shape and its settings come from the seed, every commit is held to
//! one chain, and a coordinator ends by itself only where it must.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::chain::Link;
use pghc_history::{History, Reset};
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{Acks, Retention, Settings, Timing};
use pghc_sim::database::Faults;
use pghc_sim::net::url;
use pghc_sim::{Cluster, Machine, SeededRng, SimDatabase, Zone};
use tokio::time::Instant;

use super::net::SeededLinks;

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

/// The whole.
pub(crate) struct SimCluster {
    pub(crate) seed: u64,
    /// Simulated seconds of the whole run.
    pub(crate) seconds: u64,
    cluster: Arc<Cluster>,
    pub(crate) routes: SeededLinks,
    /// Owner of each machine; a machine without one is ready for a new coordinator.
    owners: Vec<Mutex<Option<Owner>>>,
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
}

impl Deref for SimCluster {
    type Target = Arc<Cluster>;
    fn deref(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

/// Every zone must follow it: the one chain, as first committed anywhere.
#[derive(Default)]
struct Reference(Vec<Link>);

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
    pub(crate) fn new(seed: u64, seconds: u64) -> Arc<Self> {
        let rng = SeededRng::new(seed);
        let started = Instant::now();
        let founders = rng.pick(&[3, 3, 3, 5]);
        let coordinators = founders + 1;
        let per_zone: Vec<usize> = (0..3).map(|_| rng.pick(&[1, 2])).collect();
        let is_wide = rng.per_mille(250);
        let delay_us = if is_wide { (10_000, 60_000) } else { (200, 2_000) };
        let routes = SeededLinks::new(delay_us, rng.fork());
        let machines = (0..coordinators).map(|_| Machine::faulty(&rng)).collect();
        let reference = Arc::new(Mutex::new(Reference::default()));
        let zone = |number: usize| {
            let (reference, on_disk) = (Arc::clone(&reference), rng.per_mille(800));
            let committed = Arc::new(move |links: &[Link], from: usize| {
                if let Err(what) = reference.lock().check(number, links, from) {
                    fail((seed, seconds), started, &what);
                }
            });
            Zone {
                name: ["eu", "us", "ap"][number].parse().expect("a plain name"),
                database: SimDatabase::faulty(Faults { rng: rng.fork(), on_disk, committed }),
                api_nodes: per_zone[number],
            }
        };
        let zones = (0..3).map(zone).collect();
        let retention = Retention {
            log_bytes: rng.pick(&[0, 1 << 20, 1 << 30]),
            // No zone is filled from another one here: none may be cut off from the log.
            log_bytes_max: u64::MAX,
            snapshot_entries: rng.pick(&[50, 300, 100_000]),
            period: Duration::from_millis(rng.pick(&[500, 2000])),
            ..Retention::default()
        };
        let timing = if is_wide { Timing::WAN } else { Timing::LAN };
        let (link_model, voters) = (Arc::new(routes.clone()), (0..founders).collect());
        let cluster = Cluster::new(rng, link_model, timing, voters, machines, zones);
        let founder = |place: usize| Owner { id: place as u64 + 1, standing: Standing::Sound };
        let owner = |place: usize| Mutex::new((place < founders).then(|| founder(place)));
        Arc::new(Self {
            seed,
            seconds,
            cluster,
            routes,
            owners: (0..coordinators).map(owner).collect(),
            history: Mutex::default(),
            is_calm: AtomicBool::new(false),
            is_changing: AtomicBool::new(false),
            founders,
            next_id: AtomicU64::new(coordinators as u64),
            metrics: Mutex::default(),
            retention,
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

    /// A zone has lost or changed its chain since `started`.
    pub(crate) fn was_reset(&self, zone: usize, started: u64) {
        let (zone, ended) = (u16::try_from(zone).expect("three zones"), self.now());
        self.history.lock().resets.push(Reset { zone, started, ended });
    }

    /// Starts a coordinator that does not run, if the machine is anybody's.
    pub(crate) fn start_owner(self: &Arc<Self>, place: usize) {
        let Some(Owner { id, .. }) = self.owner(place) else { return };
        let settings = Settings {
            retention: self.retention,
            acks: self.acks(place),
            ..self.settings(place, id)
        };
        self.metrics.lock().push(Arc::clone(&settings.metrics));
        let cluster = Arc::clone(self);
        self.start_coordinator(place, settings, move |why| cluster.refused(place, why));
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

    /// A coordinator has ended: only one that must not take part may end, with advice.
    fn refused(&self, place: usize, why: &str) {
        let mut owner = self.owners[place].lock();
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

    /// The owner of a machine.
    pub(crate) fn owner(&self, place: usize) -> Option<Owner> {
        *self.owners[place].lock()
    }

    /// Sets the standing of a machine's coordinator.
    pub(crate) fn stands(&self, place: usize, standing: Standing) {
        if let Some(owner) = self.owners[place].lock().as_mut() {
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
        *self.owners[place].lock() = owner;
        id
    }

    /// Whether a power cut would leave a founder that knows it has founded the group.
    pub(crate) fn has_founded(&self, place: usize) -> bool {
        self.machines[place].snapshots.keeps("identity.json", "\"founded\": true")
    }

    /// Starts an API node that does not run.
    pub(crate) fn start_api_node(&self, place: usize) {
        let (zone, count) = (self.places[place].zone, self.founders);
        self.start_node(place, (0..count).map(|n| url((zone + n) % count)).collect());
    }

    /// Whether every zone has applied the same, and how far each is.
    pub(crate) fn frontiers(&self) -> (bool, Vec<u64>) {
        let frontiers: Vec<u64> = self.zones.iter().map(|zone| zone.database.frontier()).collect();
        (frontiers.iter().all(|it| *it == frontiers[0]), frontiers)
    }
}
