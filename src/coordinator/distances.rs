//! How far the other coordinators are: each is pinged every second, and a ping carries what its
//! sender sees, so that every coordinator knows every row of the matrix a second later.
//!
//! Nothing waits for it and nothing is decided on its word alone but where the lead had better be:
//! figures that are wrong cost time, never writes. It also warns when round trips outgrow the timing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::files;
use super::log::disk::Disk;
use super::pace::Pace;
use super::roster::Roster;
use super::space::Space;
use super::traffic::Traffic;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::{Distance, PingRequest, Vantage};
use crate::task::blocking;

/// Time between two pings, and longest wait for one: a peer has one under way at most.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_MAX: Duration = Duration::from_secs(5);

/// Round trips that are remembered of each peer: half a minute.
const SAMPLES: usize = 32;

/// What was not heard for so long is not told any more.
const FRESH: Duration = Duration::from_secs(10);

/// Where the switch is kept.
const FILE: &str = "placement.json";

/// Whether the lead is placed automatically, and how often that was switched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Switch {
    pub(super) auto: bool,
    pub(super) switched: u64,
}

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Distances {
    id: u64,
    roster: Roster,
    space: Space,
    traffic: Traffic,
    disk: Arc<dyn Disk>,
    inner: Arc<Mutex<Inner>>,
    pace: Arc<Mutex<Pace>>,
    /// Who writes the file holds it.
    writer: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Inner {
    own: BTreeMap<u64, Samples>,
    others: BTreeMap<u64, (Instant, Vantage)>,
    switch: Switch,
}

/// The newest round trips to one peer, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Samples {
    newest: VecDeque<u32>,
    heard: Option<Instant>,
}

impl Samples {
    /// Takes in a round trip. The first after a silence is left out: it has opened a connection.
    fn note(&mut self, took: Duration, now: Instant) {
        let is_first = self.heard.is_none_or(|heard| now - heard > FRESH);
        self.heard = Some(now);
        if is_first {
            self.newest.clear();
            return;
        }
        self.newest.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        if self.newest.len() > SAMPLES {
            self.newest.pop_front();
        }
    }

    /// The lower quartile, and what nine in ten do not exceed; `None` without anything fresh.
    fn read(&self, now: Instant) -> Option<(u32, u32)> {
        let is_fresh = self.heard.is_some_and(|heard| now - heard <= FRESH);
        let mut sorted: Vec<u32> = self.newest.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1).filter(|_| is_fresh)?;
        Some((sorted[last / 4], sorted[last * 9 / 10]))
    }
}

impl Distances {
    /// Nothing measured yet. `auto` is the setting, which counts until it is switched.
    ///
    /// # Errors
    /// If the file of the switch is there and cannot be read.
    pub(super) fn load(
        id: u64,
        roster: &Roster,
        (space, traffic): (&Space, &Traffic),
        disk: Arc<dyn Disk>,
        auto: bool,
        pace: Pace,
    ) -> io::Result<Self> {
        let switch = match files::read(disk.as_ref(), FILE)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            None => Switch { auto, switched: 0 },
        };
        let inner = Inner { switch, ..Inner::default() };
        let (roster, space, traffic) = (roster.clone(), space.clone(), traffic.clone());
        let (inner, pace) = (Arc::new(Mutex::new(inner)), Arc::new(Mutex::new(pace)));
        Ok(Self { id, roster, space, traffic, disk, inner, pace, writer: Arc::default() })
    }

    /// What this coordinator sees now.
    pub(super) fn vantage(&self) -> Vantage {
        let now = Instant::now();
        let inner = self.inner.lock();
        let distance = |(id, samples): (&u64, &Samples)| {
            let (round_trip_us, slow_us) = samples.read(now)?;
            Some(Distance { coordinator_id: *id, round_trip_us, slow_us })
        };
        Vantage {
            coordinator_id: self.id,
            distances: inner.own.iter().filter_map(distance).collect(),
            traffic: self.traffic.read(now),
            disk_short: self.space.is_short(),
            auto: inner.switch.auto,
            switched: inner.switch.switched,
        }
    }

    /// What this coordinator sees, and what it heard lately that others see.
    pub(super) fn vantages(&self) -> Vec<Vantage> {
        let (own, now) = (self.vantage(), Instant::now());
        let inner = self.inner.lock();
        let fresh = inner.others.values().filter(|(heard, _)| now - *heard <= FRESH);
        std::iter::once(own).chain(fresh.map(|(_, vantage)| vantage.clone())).collect()
    }

    /// Takes in what a member sees; what is no member is not remembered.
    pub(super) fn hear(&self, vantage: Vantage) {
        let id = vantage.coordinator_id;
        if id == self.id || !self.roster.ids().contains(&id) {
            return;
        }
        let mut inner = self.inner.lock();
        if vantage.switched > inner.switch.switched {
            inner.switch = Switch { auto: vantage.auto, switched: vantage.switched };
        }
        inner.others.insert(id, (Instant::now(), vantage));
    }

    /// Whether the lead is placed automatically.
    pub(super) fn switch(&self) -> Switch {
        self.inner.lock().switch
    }

    /// Switches it, for all: the others hear of it within seconds. Kept on disk here when it returns.
    /// Answers whether that changed anything.
    pub(super) async fn set_auto(&self, auto: bool) -> io::Result<bool> {
        {
            let mut inner = self.inner.lock();
            if inner.switch.auto == auto && inner.switch.switched > 0 {
                return Ok(false);
            }
            inner.switch = Switch { auto, switched: inner.switch.switched.saturating_add(1) };
        }
        self.save().await?;
        Ok(true)
    }

    async fn save(&self) -> io::Result<()> {
        let turn = Arc::clone(&self.writer).lock_owned().await;
        let bytes = serde_json::to_vec(&self.switch())?;
        let disk = Arc::clone(&self.disk);
        let write = move || {
            let _turn = turn;
            files::write(disk.as_ref(), FILE, &bytes)
        };
        blocking(write).await?
    }

    /// Pings everyone for as long as the coordinator runs.
    pub(super) async fn run(self) {
        let mut tick = interval(PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = FuturesUnordered::new();
        let mut asked = BTreeSet::new();
        let mut saved = self.switch();
        loop {
            tokio::select! {
                biased;
                Some((id, answer)) = under_way.next() => {
                    asked.remove(&id);
                    self.note(id, answer);
                }
                _ = tick.tick() => {
                    let members = self.roster.ids();
                    self.inner.lock().keep(&members);
                    for id in members {
                        if id != self.id && asked.insert(id) {
                            under_way.push(self.ping(id));
                        }
                    }
                    self.look_at_pace().await;
                    if self.switch() != saved {
                        saved = self.switch();
                        if let Err(error) = self.save().await {
                            tracing::warn!(%error, "failed to keep how the lead is placed");
                        }
                    }
                }
            }
        }
    }

    async fn ping(&self, id: u64) -> (u64, Option<(Duration, Option<Vantage>)>) {
        let Some(caller) = self.roster.caller(id) else { return (id, None) };
        let mut client = RaftClient::new(caller);
        let request = PingRequest { from: Some(self.vantage()) };
        let asked = Instant::now();
        let answer = timeout(PING_MAX, client.ping(request)).await;
        let answer = answer.ok().and_then(Result::ok);
        (id, answer.map(|answer| (asked.elapsed(), answer.into_inner().from)))
    }

    fn note(&self, id: u64, answer: Option<(Duration, Option<Vantage>)>) {
        let Some((took, vantage)) = answer else { return };
        self.inner.lock().own.entry(id).or_default().note(took, Instant::now());
        if let Some(vantage) = vantage.filter(|vantage| vantage.coordinator_id == id) {
            self.hear(vantage);
        }
    }

    /// Compares the round trips with what the timing bears.
    async fn look_at_pace(&self) {
        let now = Instant::now();
        let slowest = {
            let inner = self.inner.lock();
            let slow = inner.own.iter().filter(|(_, samples)| samples.newest.len() * 2 >= SAMPLES);
            let slow = slow.filter_map(|(id, samples)| Some((samples.read(now)?.1, *id)));
            slow.max()
        };
        let Some((slow_us, id)) = slowest else { return };
        let keep = self.pace.lock().look(u64::from(slow_us).div_ceil(1_000), id, now);
        let Some(kept) = keep else { return };
        let disk = Arc::clone(&self.disk);
        let written = blocking(move || kept.write(disk.as_ref())).await;
        if let Err(error) = written.and_then(|written| written) {
            tracing::warn!(%error, "failed to keep the round trips for the next start");
        }
    }
}

impl Inner {
    /// Forgets who is no member.
    fn keep(&mut self, members: &[u64]) {
        self.own.retain(|id, _| members.contains(id));
        self.others.retain(|id, _| members.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{FRESH, SAMPLES, Samples};

    #[test]
    fn a_round_trip_is_what_most_take_whatever_a_few_do() {
        let (mut samples, mut now) = (Samples::default(), Instant::now());
        samples.note(Duration::from_secs(3), now);
        assert_eq!(samples.read(now), None, "the first has opened a connection");
        for place in 0..SAMPLES * 2 {
            now += Duration::from_secs(1);
            let took = if place % 10 == 3 { 900 } else { 70 + place as u64 % 2 };
            samples.note(Duration::from_millis(took), now);
        }
        assert_eq!(samples.newest.len(), SAMPLES);
        let (usual, slow) = samples.read(now).expect("fresh");
        assert_eq!((usual, slow), (70_000, 71_000));
        now += FRESH + Duration::from_secs(1);
        assert_eq!(samples.read(now), None, "nothing is told of who is silent");
        samples.note(Duration::from_secs(2), now);
        assert!(samples.newest.is_empty(), "its way may have changed");
    }
}
