//! Good histories by seed: what a sound pghc could have answered to clients with retries, time-outs,
//! refusals and tokens. The tests plant violations in them; the benchmark measures on them.

use pghc_api::chain::{Digest, Head};
use pghc_api::id::{ClusterId, NodeName};
use pghc_api::time::Micros;

use crate::history::{
    Chain, Fingerprint, History, Link, Operation, OrderResult, ReadOutcome, Snapshot, What,
};
use crate::jsonl::Run;

/// How long an id takes to be applied in a zone, in nanoseconds, times the zone's number and one.
const ZONE_LAG: u64 = 2_000;

/// Longest way of a request to the place where it takes effect, and of its answer back.
const WAY: u64 = 10_000;

/// Longest pause of a client.
const PAUSE: u64 = 5_000;

/// Operations of one session.
const SESSION_OPERATIONS: u32 = 50;

/// Most operations between two snapshots of a zone.
const SNAPSHOT_EVERY: usize = 100;

/// The size of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Attempts, writes and reads together, in all; retries come on top.
    pub operations: usize,
    /// Clients at a time.
    pub clients: u32,
    /// Zones.
    pub zones: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { operations: 1_000, clients: 16, zones: 3 }
    }
}

/// The cluster of all synthetic histories.
///
/// # Panics
/// Never: the text is a UUID.
#[must_use]
pub fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

/// Numbers that look random and are the same for a seed everywhere (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next of them.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// Plan of an attempt, before ids are known.
#[derive(Clone, Copy)]
enum Fate {
    Acknowledged,
    Unknown,
    Refused,
    Read {
        token: bool,
        linearizable: bool,
    },
    /// Known already: the attempt before took effect.
    Repeated,
}

/// An attempt with the moment at which it takes effect, if it does.
struct Attempt {
    client: u32,
    session: u32,
    zone: u16,
    started: u64,
    effect: Option<u64>,
    ended: u64,
    write: u64,
    fate: Fate,
}

impl Settings {
    /// The history of a seed, and the equal chains of all its zones.
    #[must_use]
    pub fn run(&self, seed: u64) -> Run {
        let mut random = Random(seed);
        let mut attempts = Vec::with_capacity(self.operations + self.operations / 8);
        let each = self.operations.div_ceil(self.clients.max(1) as usize);
        for client in 0..self.clients {
            self.attempts(client, each, &mut random, &mut attempts);
        }
        let mut effects: Vec<(u64, u64)> = attempts
            .iter()
            .filter(|attempt| matches!(attempt.fate, Fate::Acknowledged | Fate::Unknown))
            .filter_map(|attempt| Some((attempt.effect?, attempt.write)))
            .collect();
        effects.sort_unstable();
        let chain = chain(&effects);
        let mut history = History::default();
        answer(&attempts, &effects, &chain, &mut history.operations);
        drop(attempts);
        self.snapshots(&effects, &chain, &mut random, &mut history.snapshots);
        let zones = (0..self.zones).map(|zone| Chain { zone, links: chain.clone() }).collect();
        Run { cluster: Some(cluster()), history, zones }
    }

    /// Attempts of a client, session by session.
    fn attempts(&self, client: u32, count: usize, random: &mut Random, out: &mut Vec<Attempt>) {
        let mut now = random.below(PAUSE);
        for number in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let zone = u16::try_from(random.below(u64::from(self.zones.max(1)))).unwrap_or(0);
            let write = u64::from(client) << 32 | u64::from(number);
            let fate = match random.below(100) {
                0..=1 => Fate::Refused,
                2..=5 => Fate::Unknown,
                6..=54 => Fate::Acknowledged,
                55..=64 => Fate::Read { token: false, linearizable: true },
                kind => Fate::Read { token: kind < 90, linearizable: false },
            };
            let session = number / SESSION_OPERATIONS;
            let started = now + random.below(PAUSE);
            // Every moment of effect is its own: microseconds and below carry the client.
            let moment = started + 1 + random.below(WAY);
            let effect = match fate {
                Fate::Refused => None,
                Fate::Unknown if random.below(2) == 0 => None,
                _ => Some(moment),
            };
            let lag = ZONE_LAG * (u64::from(zone) + 1);
            let ended = moment + lag + 1 + random.below(WAY);
            out.push(Attempt { client, session, zone, started, effect, ended, write, fate });
            now = ended;
            if matches!(fate, Fate::Unknown) && random.below(2) == 0 {
                let fate = effect.map_or(Fate::Acknowledged, |_| Fate::Repeated);
                let started = now + random.below(PAUSE);
                let moment = started + 1 + random.below(WAY);
                let effect = Some(effect.unwrap_or(moment));
                let ended = moment + lag + 1 + random.below(WAY);
                out.push(Attempt { client, session, zone, started, effect, ended, write, fate });
                now = ended;
            }
        }
    }

    fn snapshots(
        &self,
        effects: &[(u64, u64)],
        chain: &[Link],
        random: &mut Random,
        out: &mut Vec<Snapshot>,
    ) {
        for zone in 0..self.zones {
            for (moment, _) in effects.iter().step_by(SNAPSHOT_EVERY) {
                let at = moment + random.below(WAY);
                let lag = ZONE_LAG * (u64::from(zone) + 1);
                let max_id = effects.partition_point(|(effect, _)| effect + lag <= at) as u64;
                out.push(Snapshot {
                    zone,
                    replica: false,
                    started: at.saturating_sub(5),
                    ended: at + 5,
                    max_id,
                    count: max_id,
                    digest: link(chain, max_id).map(|link| link.digest),
                });
            }
        }
    }
}

fn link(chain: &[Link], id: u64) -> Option<&Link> {
    chain.get(usize::try_from(id.checked_sub(1)?).ok()?)
}

/// A payload's SHA-256 in all but the computing of it.
fn payload(write: u64) -> Digest {
    let mut random = Random(write);
    let mut bytes = [0; 32];
    bytes
        .chunks_exact_mut(8)
        .for_each(|chunk| chunk.copy_from_slice(&random.number().to_le_bytes()));
    Digest(bytes)
}

/// Half of the writes have a key.
fn key(write: u64) -> Option<u64> {
    write.is_multiple_of(2).then_some(write)
}

/// The links, in the order of the moments at which they take effect.
fn chain(effects: &[(u64, u64)]) -> Vec<Link> {
    let nodes: Vec<NodeName> =
        ["eu-1", "us-1", "ap-1"].map(|name| name.parse().expect("a plain name")).into();
    let mut head: Option<Head> = None;
    let mut links = Vec::with_capacity(effects.len());
    for (moment, write) in effects {
        let node = &nodes[usize::try_from(write % 3).unwrap_or_default()];
        let written_at = Micros(i64::try_from(moment / 1_000).unwrap_or(i64::MAX));
        let payload = Some(payload(*write));
        let next = Head::extend(head.as_ref(), &cluster(), node, written_at, payload);
        let Head { id, hash, digest, .. } = next;
        links.push(Link { id: id.get(), node: node.clone(), written_at, payload, hash, digest });
        head = Some(next);
    }
    links
}

/// Turns attempts into operations with the answers of a sound pghc.
fn answer(
    attempts: &[Attempt],
    effects: &[(u64, u64)],
    chain: &[Link],
    operations: &mut Vec<Operation>,
) {
    let committed = |at: u64| effects.partition_point(|(effect, _)| *effect <= at) as u64;
    let mut session = (0, 0);
    let mut token = 0;
    for attempt in attempts {
        let Attempt { client, zone, started, ended, write, fate, .. } = *attempt;
        if session != (client, attempt.session) {
            session = (client, attempt.session);
            token = 0;
        }
        let at = attempt.effect.unwrap_or_default();
        let acknowledged = |repeated| {
            let moment = (at, write);
            let position = effects.binary_search(&moment).expect("it takes effect");
            let Link { id, digest, .. } = chain[position];
            OrderResult::Acknowledged { id, digest, repeated, applied: true }
        };
        let outcome = match fate {
            Fate::Acknowledged => acknowledged(false),
            Fate::Repeated => acknowledged(true),
            Fate::Refused => OrderResult::Refused,
            Fate::Unknown | Fate::Read { .. } => OrderResult::Unknown,
        };
        let what = if let Fate::Read { token: with_token, linearizable } = fate {
            let lag = if linearizable { 0 } else { ZONE_LAG * (u64::from(zone) + 1) };
            let mut frontier = committed(at.saturating_sub(lag));
            if with_token {
                frontier = frontier.max(token);
            }
            let digest = link(chain, frontier).map(|link| link.digest);
            let outcome = ReadOutcome::Seen { frontier, digest };
            What::Read { at_least: with_token.then_some(token), linearizable, outcome }
        } else {
            let payload = Some(Fingerprint::from(payload(write)));
            What::Write { key: key(write), payload, outcome }
        };
        let operation = Operation { client, session: session.1, zone, started, ended, what };
        token = token.max(operation.proves().unwrap_or(0));
        operations.push(operation);
    }
}
