//! A zone whose chain was rewritten, sound in itself, while its nodes were down. Its nodes must
//! fence it at their start, despite other faults and a purged log, and show no link of it. Then a
//! copy of a sound zone's chain takes its place, as by `pghc zone reseed`.

use std::collections::BTreeSet;
use std::time::Duration;

use pghc_api::chain::{Head, Link, payload_digest};
use pghc_api::id::WriteId;
use pghc_runtime::rpc::Dial as _;
use pghc_runtime::rpc::v1::ZoneReport;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_server::zone::{ReadError, ReadRequirement, Service as _};
use pghc_sim::net::url;
use pghc_sim::{cluster_id, head_of};
use tokio::time::{Instant, sleep, timeout};

use super::faults::Trouble;

/// Name of the count of cases in which no log reaches back to the first rewritten link.
pub(crate) const FORGED_BELOW_LOG: &str = "zone forged below every log";

/// Longest wait for a coordinator's answer, and for a node's.
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// Rewrites a chain from link `first` on so that it is sound in itself: another payload there, and the
/// digests of all that follow.
fn forge(links: &mut [Link], first: u64) {
    let place = usize::try_from(first - 1).expect("small");
    let (before, rewritten) = links.split_at_mut(place);
    let mut before = before.last().map(head_of);
    for link in rewritten {
        if link.id.get() == first {
            link.payload = Some("\"forged\"".into());
        }
        let payload = link.payload.as_ref().map(|payload| payload_digest(payload.as_bytes()));
        let (node, at) = (&link.node, link.written_at);
        let next = Head::extend(before.as_ref(), &cluster_id(), node, at, payload);
        (link.hash, link.digest) = (next.hash, next.digest);
        before = Some(next);
    }
}

impl Trouble {
    /// Rewrites a zone from some link on and starts its nodes, often where they reach no coordinator at
    /// first.
    pub(crate) async fn zone_forged(self) {
        let (cluster, zone) = (&self.cluster, self.rng.below(self.cluster.zones.len()));
        let database = &cluster.zones[zone].database;
        let (log_first, frontier) = (self.log_first().await.unwrap_or(1), database.frontier());
        if frontier == 0 {
            return self.done();
        }
        // Below every log where one has purged anything.
        let is_below = log_first > 1;
        let last = if is_below { frontier.min(log_first - 1) } else { frontier };
        let first = self.rng.between(1, last);
        self.kill_nodes(zone);
        database.rewrite(|links| forge(links, first));
        let started = cluster.now();
        if is_below {
            cluster.fault(FORGED_BELOW_LOG);
        }
        let roads = if self.rng.per_mille(500) { self.roads(zone) } else { Vec::new() };
        self.set(&roads, true);
        self.last(1, 1_000).await;
        self.start_nodes(zone);
        let alone_until = Instant::now() + self.rng.millis(500, 4_000);
        let what = format!("zone {zone} is not fenced although it was rewritten from {first} on");
        let (mut fenced, mut calm_since) = (BTreeSet::new(), None);
        while fenced.len() < self.nodes(zone).count() || Instant::now() < alone_until {
            if Instant::now() >= alone_until {
                self.set(&roads, false);
                self.wait(&mut calm_since, &what).await;
            }
            self.look(zone, first, &mut fenced).await;
        }
        self.set(&roads, false);
        self.reseed(zone, frontier).await;
        cluster.was_reset(zone, started);
        self.done();
    }

    /// Notes which nodes of a zone have halted.
    ///
    /// Ends the run when one of them shows link `forged`.
    async fn look(&self, zone: usize, forged: u64, fenced: &mut BTreeSet<usize>) {
        sleep(self.rng.millis(1, 20)).await;
        for place in self.nodes(zone) {
            let Some((process, Some(node))) = self.cluster.node(place) else { continue };
            if matches!(node.may_read(), Err(ReadError::Halted(_))) {
                fenced.insert(place);
            }
            let deadline = Instant::now() + ANSWER_MAX;
            let need = ReadRequirement { at_least: 0, deadline, may_be_replica: true };
            let id = WriteId::try_from(forged).expect("above 0");
            let asked = process.spawn(async move { node.link(id, need).await });
            if let Ok(Ok(Ok(seen))) = timeout(ANSWER_MAX * 2, asked).await {
                let what =
                    format!("zone {zone} shows link {forged}, which was rewritten: {seen:?}");
                self.cluster.fail(&what);
            }
        }
    }

    /// Puts the chain of another zone in the place of this one's, which went up to `frontier`.
    async fn reseed(&self, zone: usize, frontier: u64) {
        let mut calm_since = None;
        let sound = loop {
            let others = self.cluster.zones.iter().enumerate().filter(|(other, _)| *other != zone);
            let links = others.map(|(_, other)| other.database.links());
            if let Some(links) = { links }.find(|links| links.len() as u64 >= frontier) {
                break links;
            }
            self.wait(&mut calm_since, &format!("no zone follows to {frontier}")).await;
        };
        self.kill_nodes(zone);
        self.cluster.zones[zone].database.rewrite(|links| *links = sound);
        self.start_nodes(zone);
    }

    /// First id that every log that answers reaches back to at best; `None` when none answers.
    async fn log_first(&self) -> Option<u64> {
        let mut first = None;
        for place in 0..self.cluster.founders {
            let dialer = self.cluster.net.dialer(self.cluster.machines.len());
            let caller = dialer.caller(&url(place), &cluster_id(), ANSWER_MAX);
            let mut client = CoordinatorClient::new(caller.expect("a URL of this network"));
            let asked = timeout(ANSWER_MAX, client.report(ZoneReport::default())).await;
            let Ok(Ok(answer)) = asked else { continue };
            let reaches = answer.into_inner().log_first_id;
            first = Some(first.map_or(reaches, |first: u64| first.min(reaches)));
        }
        first
    }

    /// Places of a zone's nodes.
    fn nodes(&self, zone: usize) -> impl Iterator<Item = usize> {
        let places = self.cluster.places.iter().enumerate();
        places.filter(move |(_, at)| at.zone == zone).map(|(place, _)| place)
    }

    fn kill_nodes(&self, zone: usize) {
        self.nodes(zone).for_each(|place| self.cluster.kill_node(place));
    }

    fn start_nodes(&self, zone: usize) {
        self.nodes(zone).for_each(|place| self.cluster.start_api_node(place));
    }

    /// The roads from a zone's nodes to all coordinators.
    fn roads(&self, zone: usize) -> Vec<(usize, usize)> {
        let coordinators = self.cluster.machines.len();
        let of = |place| (0..coordinators).map(move |to| (coordinators + place, to));
        self.nodes(zone).flat_map(of).collect()
    }
}
