//! Faults: injection, time and repair. Each fault is a plug-in of one function; up to
//! [`AT_ONCE_MAX`] overlap. All damage is repaired when the calm phase begins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use pghc_sim::SeededRng;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::SimCluster;

/// Faults under way at a time.
const AT_ONCE_MAX: usize = 4;

/// Handles that a fault acts on.
#[derive(Clone)]
pub(crate) struct Trouble {
    pub(crate) cluster: Arc<SimCluster>,
    pub(crate) rng: SeededRng,
    /// The time of faults is over.
    pub(crate) calm: CancellationToken,
}

type Fault = fn(Trouble) -> BoxFuture<'static, ()>;

/// The class of [`found`].
pub(crate) const FOUNDER_DOWN: &str = "founder without power";

/// Classes of which only one runs at a time: two wiped disks of three may lose acknowledged writes,
/// and a forged zone needs a sound one and a log that reaches back to it.
const DISK_WIPED: &str = "disk wiped";
const MEMBERS_CHANGED: &str = "members changed";
const ZONE_FORGED: &str = "zone forged";

/// Classes that cut the power of all machines: rare.
const POWER_CUT: &str = "power cut everywhere";
const POWER_CUT_OF_SLOW_DISKS: &str = "power cut of slow disks";

/// All classes of faults that may come at any time, by name.
pub(crate) const FAULTS: &[(&str, Fault)] = &[
    ("split", |it| Box::pin(it.split())),
    ("one way cut", |it| Box::pin(it.one_way())),
    ("pair cut", |it| Box::pin(it.pair())),
    ("flapping", |it| Box::pin(it.flapping())),
    ("slow link", |it| Box::pin(it.slow_link())),
    ("coordinator killed", |it| Box::pin(it.coordinator_down(false))),
    ("coordinator without power", |it| Box::pin(it.coordinator_down(true))),
    ("coordinator stopped", |it| Box::pin(it.coordinator_stopped())),
    (DISK_WIPED, |it| Box::pin(it.disk_wiped())),
    (MEMBERS_CHANGED, |it| Box::pin(it.members_changed())),
    ("coordinator paused", |it| Box::pin(it.coordinator_paused())),
    ("slow disk", |it| Box::pin(it.slow_disk())),
    ("clock jump", |it| Box::pin(async move { it.clock_jump() })),
    ("node killed", |it| Box::pin(it.node_killed())),
    ("node paused", |it| Box::pin(it.node_paused())),
    ("database crash", |it| Box::pin(it.database_crash())),
    ("database connections lost", |it| Box::pin(it.database_loses())),
    (ZONE_FORGED, |it| Box::pin(it.zone_forged())),
    (POWER_CUT, |it| Box::pin(it.power_cut())),
    (POWER_CUT_OF_SLOW_DISKS, |it| Box::pin(it.power_cut_of_slow_disks())),
];

/// Makes trouble until it is calm; ends when everything is mended.
pub(crate) async fn run(cluster: Arc<SimCluster>, calm: CancellationToken) {
    let rng = cluster.rng.fork();
    let mut under_way = Vec::new();
    // A seed has its favourites, so that some classes meet often.
    let favourites: Vec<usize> = (0..rng.between(2, 6)).map(|_| rng.below(FAULTS.len())).collect();
    while !calm.is_cancelled() {
        let pause = rng.millis(100, 2500);
        tokio::select! {
            biased;
            () = calm.cancelled() => break,
            () = sleep(pause) => {}
        }
        under_way.retain(|fault: &tokio::task::JoinHandle<()>| !fault.is_finished());
        if under_way.len() >= AT_ONCE_MAX {
            continue;
        }
        let any = rng.below(FAULTS.len());
        let chosen = if rng.per_mille(700) { rng.pick(&favourites) } else { any };
        // Power cuts of everything are rare.
        let (class, fault) = match FAULTS[chosen] {
            (POWER_CUT | POWER_CUT_OF_SLOW_DISKS, _) if rng.per_mille(700) => FAULTS[any],
            chosen => chosen,
        };
        if [DISK_WIPED, MEMBERS_CHANGED, ZONE_FORGED].contains(&class)
            && cluster.is_changing.swap(true, Ordering::Relaxed)
        {
            continue;
        }
        cluster.fault(class);
        let it = Trouble { cluster: Arc::clone(&cluster), rng: rng.fork(), calm: calm.clone() };
        under_way.push(tokio::spawn(fault(it)));
    }
    for fault in under_way {
        fault.await.expect("faults do not panic");
    }
    cluster.routes.mend_all();
    cluster.net.note();
}

/// Longest time from the first start to the first write in every zone.
const FOUND_MAX: Duration = Duration::from_secs(60);

/// Starts everything, the coordinators one after the other, and waits until writes flow. In half of the
/// seeds the first of the founders loses power as soon as it has founded the group, which the others may
/// not know yet.
pub(crate) async fn found(cluster: &Arc<SimCluster>) {
    let rng = cluster.rng.fork();
    (0..cluster.places.len()).for_each(|place| cluster.start_api_node(place));
    let first = rng.below(cluster.founders);
    let patience = rng.pick(&[0, 20, 300]);
    for place in 0..cluster.founders {
        cluster.start_owner((first + place) % cluster.founders);
        sleep(rng.millis(0, patience)).await;
    }
    let until = Instant::now() + FOUND_MAX;
    if rng.per_mille(500) {
        let victim = loop {
            let first = (0..cluster.founders).find(|place| cluster.has_founded(*place));
            if let Some(first) = first {
                break first;
            }
            if Instant::now() > until {
                cluster.fail("nobody founds a group");
            }
            sleep(Duration::from_micros(100)).await;
        };
        sleep(rng.millis(0, rng.pick(&[0, 0, 5, 300]))).await;
        cluster.fault(FOUNDER_DOWN);
        cluster.kill_coordinator(victim, true);
        sleep(rng.millis(1, 3000)).await;
        cluster.start_owner(victim);
    }
    while cluster.frontiers().1.contains(&0) {
        if Instant::now() > until {
            cluster.fail("the group that was founded takes no writes");
        }
        sleep(Duration::from_millis(10)).await;
    }
}

impl Trouble {
    /// Lets some time pass, less when it becomes calm; whether it still is time for trouble.
    pub(crate) async fn last(&self, low_ms: u64, high_ms: u64) -> bool {
        let time = self.rng.millis(low_ms, high_ms);
        tokio::select! {
            biased;
            () = self.calm.cancelled() => false,
            () = sleep(time) => true,
        }
    }

    /// Four election timeouts: long enough for everything that waits for one.
    pub(crate) fn long_ms(&self) -> u64 {
        self.cluster.timing.lease_ms * 8
    }

    fn hosts(&self) -> usize {
        self.cluster.machines.len() + self.cluster.places.len()
    }

    fn any_coordinator(&self) -> usize {
        self.rng.below(self.cluster.machines.len())
    }

    /// A coordinator on another host.
    fn coordinator_apart_from(&self, host: usize) -> usize {
        let coordinators = self.cluster.machines.len();
        if host >= coordinators {
            return self.any_coordinator();
        }
        let other = self.rng.below(coordinators - 1);
        other + usize::from(other >= host)
    }

    pub(crate) fn set(&self, links: &[(usize, usize)], is_cut: bool) {
        for (from, to) in links {
            if is_cut {
                self.cluster.routes.cut(*from, *to);
            } else {
                self.cluster.routes.mend(*from, *to);
            }
        }
        self.cluster.net.note();
    }

    async fn split(self) {
        let sides: Vec<bool> = (0..self.hosts()).map(|_| self.rng.per_mille(400)).collect();
        let mut links = Vec::new();
        for from in 0..sides.len() {
            links.extend(
                (0..sides.len()).filter(|to| sides[*to] != sides[from]).map(|to| (from, to)),
            );
        }
        self.set(&links, true);
        self.last(50, self.long_ms()).await;
        self.set(&links, false);
    }

    async fn one_way(self) {
        let from = self.rng.below(self.hosts());
        let to = self.coordinator_apart_from(from);
        self.set(&[(from, to)], true);
        self.last(50, self.long_ms()).await;
        self.set(&[(from, to)], false);
    }

    /// With three coordinators: both still reach the third.
    async fn pair(self) {
        let one = self.any_coordinator();
        let two = self.coordinator_apart_from(one);
        self.set(&[(one, two), (two, one)], true);
        self.last(50, self.long_ms()).await;
        self.set(&[(one, two), (two, one)], false);
    }

    async fn flapping(self) {
        let from = self.any_coordinator();
        let to = self.coordinator_apart_from(from);
        let links = [(from, to), (to, from)];
        for _ in 0..self.rng.between(3, 15) {
            self.set(&links, true);
            let goes_on = self.last(20, 600).await;
            self.set(&links, false);
            if !goes_on || !self.last(20, 600).await {
                return;
            }
        }
    }

    async fn slow_link(self) {
        let from = self.rng.below(self.hosts());
        let to = self.coordinator_apart_from(from);
        let slow = self.rng.pick(&[(20_000, 80_000), (0, 300_000), (500_000, 900_000)]);
        self.set_delay(from, to, slow);
        self.last(200, self.long_ms()).await;
        self.set_delay(from, to, (200, 2_000));
    }

    fn set_delay(&self, one: usize, two: usize, delay_us: (u64, u64)) {
        self.cluster.routes.set_delay(one, two, delay_us);
        self.cluster.routes.set_delay(two, one, delay_us);
        self.cluster.net.note();
    }

    async fn coordinator_down(self, with_power: bool) {
        let place = self.any_coordinator();
        self.cluster.kill_coordinator(place, with_power);
        self.last(1, self.long_ms()).await;
        self.cluster.start_owner(place);
    }

    /// As an operator stops it: it hands leadership over first.
    async fn coordinator_stopped(self) {
        let place = self.any_coordinator();
        self.cluster.retire_coordinator(place).await;
        self.last(1, self.long_ms()).await;
        self.cluster.start_owner(place);
    }

    async fn coordinator_paused(self) {
        let Some(process) = self.cluster.coordinator(self.any_coordinator()) else { return };
        process.pause();
        self.cluster.net.note();
        self.last(20, self.cluster.timing.lease_ms * 5).await;
        process.resume();
        self.cluster.net.note();
    }

    async fn slow_disk(self) {
        let place = self.any_coordinator();
        let (low, high) = self.rng.pick(&[(5_000, 50_000), (0, 400_000), (500_000, 2_000_000)]);
        self.cluster.machines[place].log.set_sync(low, high);
        self.last(100, self.long_ms()).await;
        self.cluster.machines[place].log.set_sync(200, 2_000);
    }

    fn clock_jump(&self) {
        let by_s = self.rng.pick(&[-5000, -1, 1, 3600, 86_400]);
        let machine = &self.cluster.machines[self.any_coordinator()];
        machine.skew_us.store(by_s * 1_000_000, Ordering::Relaxed);
    }

    async fn node_killed(self) {
        let place = self.rng.below(self.cluster.places.len());
        self.cluster.kill_node(place);
        self.last(1, 4000).await;
        self.cluster.start_api_node(place);
    }

    async fn node_paused(self) {
        let place = self.rng.below(self.cluster.places.len());
        let Some((process, _)) = self.cluster.node(place) else { return };
        process.pause();
        // The lease of an applier runs out after 4 s.
        self.last(20, 8000).await;
        process.resume();
    }

    async fn database_crash(self) {
        let zone = self.rng.below(self.cluster.zones.len());
        let started = self.cluster.now();
        self.cluster.zones[zone].database.crash();
        self.last(100, 3000).await;
        self.cluster.zones[zone].database.start();
        if !self.cluster.zones[zone].database.is_on_disk() {
            self.cluster.was_reset(zone, started);
        }
    }

    async fn database_loses(self) {
        let database =
            self.cluster.zones[self.rng.below(self.cluster.zones.len())].database.clone();
        let latency = self.rng.pick(&[(150, 900), (1_000, 50_000), (1_000, 6_000_000)]);
        database.trouble(self.rng.between(0, 300), latency);
        self.last(200, 6000).await;
        database.trouble(0, (150, 900));
    }

    /// The disks of all logs sync slowly, and then every machine loses power: writes reported
    /// before their sync are lost in the logs, while databases have them.
    async fn power_cut_of_slow_disks(self) {
        let (low, high) = self.rng.pick(&[(50_000, 150_000), (200_000, 400_000)]);
        let machines = self.cluster.machines.len();
        (0..machines).for_each(|place| self.cluster.machines[place].log.set_sync(low, high));
        self.last(100, 1_500).await;
        let cluster = Arc::clone(&self.cluster);
        self.power_cut().await;
        (0..machines).for_each(|place| cluster.machines[place].log.set_sync(200, 2_000));
    }

    /// Every machine loses power at one moment.
    async fn power_cut(self) {
        let (machines, places) = (self.cluster.machines.len(), self.cluster.places.len());
        let started = self.cluster.now();
        (0..machines).for_each(|place| self.cluster.kill_coordinator(place, true));
        (0..places).for_each(|place| self.cluster.kill_node(place));
        self.cluster.zones.iter().for_each(|zone| zone.database.crash());
        sleep(Duration::from_millis(50)).await;
        self.last(1, 1500).await;
        self.cluster.zones.iter().for_each(|zone| zone.database.start());
        for (number, zone) in self.cluster.zones.iter().enumerate() {
            if !zone.database.is_on_disk() {
                self.cluster.was_reset(number, started);
            }
        }
        for place in 0..machines {
            self.last(0, 300).await;
            self.cluster.start_owner(place);
        }
        (0..places).for_each(|place| self.cluster.start_api_node(place));
    }
}
