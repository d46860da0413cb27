//! Measures round trips by pings; each ping carries its sender's measurements.
//!
//! Every coordinator knows every row of the matrix one second later. Only leader placement and a
//! timing warning depend on it: wrong figures cost time, never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use pghc_api::id::ZoneName;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::v1::{Distance, NodeMeasurements, PingRequest};
use pghc_runtime::task::blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::auto_placement::AutoPlacement;
use super::rtt_samples::{FRESH, RttSamples};
use super::timing_advisor::{MaxRtt, TimingAdvisor};
use super::write_rates::{WriteRates, ZONES_MAX};
use crate::coordinator::disk_reserve::DiskReserve;
use crate::coordinator::log::disk::Disk;
use crate::coordinator::peers::directory::PeerDirectory;

/// Time between two pings and deadline of one, so that one ping is in flight per peer. Below the
/// second of silence after which HTTP/2 sends a ping of its own.
const PING_PERIOD: Duration = Duration::from_millis(900);
const PING_MAX: Duration = Duration::from_secs(5);

/// Clones share the state.
#[derive(Clone)]
pub(crate) struct RttMonitor {
    id: u64,
    peers: PeerDirectory,
    disk_reserve: DiskReserve,
    traffic: WriteRates,
    disk: Arc<dyn Disk>,
    inner: Arc<Mutex<Inner>>,
    timing_advisor: Arc<Mutex<TimingAdvisor>>,
    /// The writer of the file holds the lock.
    writer: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Inner {
    own: BTreeMap<u64, RttSamples>,
    others: BTreeMap<u64, (Instant, NodeMeasurements)>,
    auto_placement: AutoPlacement,
}

impl RttMonitor {
    /// Starts without measurements. `auto` is the setting until an operator changes it.
    pub(crate) fn load(
        id: u64,
        peers: &PeerDirectory,
        (disk_reserve, traffic): (&DiskReserve, &WriteRates),
        disk: Arc<dyn Disk>,
        auto: bool,
        timing_advisor: TimingAdvisor,
    ) -> Self {
        let auto_placement = AutoPlacement::load(disk.as_ref(), auto);
        let inner = Inner { auto_placement, ..Inner::default() };
        let (peers, disk_reserve, traffic) = (peers.clone(), disk_reserve.clone(), traffic.clone());
        let (inner, timing_advisor) =
            (Arc::new(Mutex::new(inner)), Arc::new(Mutex::new(timing_advisor)));
        Self {
            id,
            peers,
            disk_reserve,
            traffic,
            disk,
            inner,
            timing_advisor,
            writer: Arc::default(),
        }
    }

    /// Returns this coordinator's measurements.
    pub(crate) fn own_measurements(&self) -> NodeMeasurements {
        let now = Instant::now();
        let inner = self.inner.lock();
        let distance = |(id, samples): (&u64, &RttSamples)| {
            let (round_trip_us, slow_us) = samples.read(now)?;
            Some(Distance { coordinator_id: *id, round_trip_us, slow_us })
        };
        NodeMeasurements {
            coordinator_id: self.id,
            distances: inner.own.iter().filter_map(distance).collect(),
            traffic: self.traffic.read(now),
            disk_short: self.disk_reserve.is_below_reserve(),
            auto: inner.auto_placement.auto,
            switched: inner.auto_placement.switched,
        }
    }

    /// Returns this coordinator's measurements and the fresh ones of its peers.
    pub(crate) fn measurements(&self) -> Vec<NodeMeasurements> {
        let (own, now) = (self.own_measurements(), Instant::now());
        let inner = self.inner.lock();
        let fresh = inner.others.values().filter(|(received, _)| now - *received <= FRESH);
        std::iter::once(own).chain(fresh.map(|(_, measurements)| measurements.clone())).collect()
    }

    /// Records the measurements of a member; those of other coordinators are dropped.
    pub(crate) fn merge(&self, mut measurements: NodeMeasurements) {
        let (id, members) = (measurements.coordinator_id, self.peers.ids());
        if id == self.id || !members.contains(&id) {
            return;
        }
        trim(&mut measurements, &members);
        let mut inner = self.inner.lock();
        inner
            .auto_placement
            .merge(AutoPlacement { auto: measurements.auto, switched: measurements.switched });
        inner.others.insert(id, (Instant::now(), measurements));
    }

    /// Returns the state of automatic placement.
    pub(crate) fn auto_placement(&self) -> AutoPlacement {
        self.inner.lock().auto_placement
    }

    /// Changes automatic placement for the group; peers learn of it within seconds. Durable here on
    /// return; returns whether the value changed.
    pub(crate) async fn set_auto(&self, auto: bool) -> io::Result<bool> {
        {
            let mut inner = self.inner.lock();
            if !inner.auto_placement.set(auto) {
                return Ok(false);
            }
        }
        self.save().await?;
        Ok(true)
    }

    async fn save(&self) -> io::Result<()> {
        let turn = Arc::clone(&self.writer).lock_owned().await;
        let (auto_placement, disk) = (self.auto_placement(), Arc::clone(&self.disk));
        let write = move || {
            let _turn = turn;
            auto_placement.write(disk.as_ref())
        };
        blocking(write).await?
    }

    /// Pings all peers until dropped.
    pub(crate) async fn run(self) {
        let mut tick = interval(PING_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = FuturesUnordered::new();
        let mut asked = BTreeSet::new();
        let mut saved = self.auto_placement();
        loop {
            tokio::select! {
                biased;
                Some((id, answer)) = under_way.next() => {
                    asked.remove(&id);
                    self.record(id, answer);
                }
                _ = tick.tick() => {
                    let members = self.peers.ids();
                    self.inner.lock().keep(&members);
                    for id in members {
                        if id != self.id && asked.insert(id) {
                            under_way.push(self.ping(id));
                        }
                    }
                    self.check_timing().await;
                    if self.auto_placement() != saved {
                        saved = self.auto_placement();
                        if let Err(error) = self.save().await {
                            tracing::warn!(%error, "automatic placement write failed");
                        }
                    }
                }
            }
        }
    }

    async fn ping(&self, id: u64) -> (u64, Option<(Duration, Option<NodeMeasurements>)>) {
        let Some(connection) = self.peers.connection(id) else { return (id, None) };
        let mut client = RaftClient::new(connection);
        let request = PingRequest { from: Some(self.own_measurements()) };
        let asked = Instant::now();
        let answer = timeout(PING_MAX, client.ping(request)).await;
        let answer = answer.ok().and_then(Result::ok);
        (id, answer.map(|answer| (asked.elapsed(), answer.into_inner().from)))
    }

    fn record(&self, id: u64, answer: Option<(Duration, Option<NodeMeasurements>)>) {
        let Some((took, measurements)) = answer else { return };
        self.inner.lock().own.entry(id).or_default().record(took, Instant::now());
        if let Some(measurements) =
            measurements.filter(|measurements| measurements.coordinator_id == id)
        {
            self.merge(measurements);
        }
    }

    /// Compares the round trips with the timing.
    async fn check_timing(&self) {
        let now = Instant::now();
        let slowest = {
            let inner = self.inner.lock();
            let many = inner.own.iter().filter(|(_, samples)| samples.suffice());
            MaxRtt::of(many.filter_map(|(id, samples)| Some((*id, samples.read(now)?))))
        };
        let Some(slowest) = slowest else { return };
        let Some(kept) = self.timing_advisor.lock().record(slowest, now) else { return };
        let disk = Arc::clone(&self.disk);
        let written = blocking(move || kept.write(disk.as_ref())).await;
        match written.and_then(|written| written) {
            Ok(()) => self.timing_advisor.lock().saved(kept),
            Err(error) => {
                tracing::warn!(%error, "round trip write failed");
            }
        }
    }
}

/// Bounds a peer's measurements: one plausible round trip per member, and at most
/// [`ZONES_MAX`](super::write_rates::ZONES_MAX) zones. Memory is then bounded by the number of
/// members.
fn trim(measurements: &mut NodeMeasurements, members: &[u64]) {
    let (own, mut seen) = (measurements.coordinator_id, BTreeSet::new());
    let longest_us = PING_MAX.as_micros();
    measurements.distances.retain(|it| {
        let can_be = it.round_trip_us <= it.slow_us && u128::from(it.slow_us) <= longest_us;
        let id = it.coordinator_id;
        can_be && id != own && members.contains(&id) && seen.insert(id)
    });
    measurements.traffic.retain(|it| it.zone.parse::<ZoneName>().is_ok());
    measurements.traffic.truncate(ZONES_MAX);
}

impl Inner {
    /// Removes coordinators that are no members.
    fn keep(&mut self, members: &[u64]) {
        self.own.retain(|id, _| members.contains(id));
        self.others.retain(|id, _| members.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use pghc_runtime::rpc::v1::{Distance, NodeMeasurements, Traffic};

    use super::{PING_MAX, ZONES_MAX, trim};

    #[test]
    fn peer_measurements_are_trimmed_to_plausible_entries() {
        let to = |coordinator_id, round_trip_us, slow_us| Distance {
            coordinator_id,
            round_trip_us,
            slow_us,
        };
        let too_long = u32::try_from(PING_MAX.as_micros()).expect("seconds") + 1;
        let mut distances: Vec<Distance> = (0..100_000).map(|id| to(id, 70, 80)).collect();
        distances.extend([to(3, 1, 1), to(4, 90, 80), to(5, 1, too_long), to(6, 0, 0)]);
        let named = |zone: String| Traffic { zone, ..Traffic::default() };
        let mut traffic = vec![named(String::new()), named("z".repeat(1 << 20))];
        traffic.extend((0..1_000).map(|zone| named(format!("z{zone}"))));
        let mut warned = NodeMeasurements {
            coordinator_id: 2,
            distances,
            traffic,
            ..NodeMeasurements::default()
        };
        trim(&mut warned, &[1, 2, 3]);
        assert_eq!(
            warned.distances,
            [to(1, 70, 80), to(3, 70, 80)],
            "itself and strangers are out"
        );
        assert_eq!((warned.traffic.len(), warned.traffic[0].zone.as_str()), (ZONES_MAX, "z0"));
        warned.distances = vec![to(4, 90, 80), to(5, 1, too_long), to(6, 0, 0)];
        trim(&mut warned, &[1, 2, 4, 5, 6]);
        assert_eq!(warned.distances, [to(6, 0, 0)]);
    }
}
