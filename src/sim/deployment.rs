//! The deployment itself: a [`Cluster`] without faults of its own, one coordinator in each zone, on the
//! network links of a matrix.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::ZoneName;
use pghc_api::wire::Status;
use pghc_runtime::task::process::Process;
use pghc_server::coordinator::{Acks, Geo, Settings, Timing};
use pghc_server::zone::{Node, Service as _};
use pghc_wan::Matrix;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Machine, Zone, cluster_id};
use super::database::SimDatabase;
use super::link_model::WanLinkModel;
use super::net::url;
use super::rng::SeededRng;

/// Time between two polls of a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Round trips up to which the settings for one place do.
const NEAR: Duration = Duration::from_millis(20);

/// Round trips up to which the settings for distances do.
const FAR: Duration = Duration::from_millis(350);

/// Options of a virtual deployment.
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

struct Inner {
    plan: Plan,
    cluster: Arc<Cluster>,
    link_model: Arc<WanLinkModel>,
    /// Coordinators that ended without a request.
    ended: Mutex<Vec<String>>,
}

/// A deployment in virtual time. Clones are the same one.
#[derive(Clone)]
pub struct Deployment(Arc<Inner>);

/// Raft's clocks for these distances: a heartbeat must outlast a round trip.
fn timing(matrix: &Matrix) -> Timing {
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

impl Deployment {
    /// Starts everything but the learners, which [join](Self::settle) a founded group. Must be
    /// called in virtual time.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        let (names, api_nodes) = (plan.matrix.zones(), plan.api_nodes);
        let nodes = (0..names.len()).flat_map(|zone| std::iter::repeat_n(zone, api_nodes));
        let zone_of: Vec<usize> = (0..names.len()).chain(nodes).collect();
        let link_model = Arc::new(WanLinkModel::new(&plan.matrix, zone_of, plan.seed));
        let zone = |name: &ZoneName| Zone {
            name: name.clone(),
            database: SimDatabase::default(),
            api_nodes,
        };
        let cluster = Cluster::new(
            SeededRng::raw(plan.seed),
            Arc::clone(&link_model) as Arc<_>,
            timing(&plan.matrix),
            plan.voters.clone(),
            names.iter().map(|_| Machine::default()).collect(),
            names.iter().map(zone).collect(),
        );
        let zones = names.len();
        let deployment =
            Self(Arc::new(Inner { plan, cluster, link_model, ended: Mutex::default() }));
        for zone in 0..zones {
            deployment.start_coordinator(zone);
            (0..api_nodes).for_each(|node| deployment.start_node(zone, node));
        }
        deployment
    }

    /// The options that the deployment was started with.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// The network between the zones. After a cut or a healing the deployment must be
    /// [notified](Self::note).
    #[must_use]
    pub fn link_model(&self) -> &WanLinkModel {
        &self.0.link_model
    }

    /// The network links have changed.
    pub fn note(&self) {
        self.0.cluster.net.note();
    }

    /// The database of a zone.
    #[must_use]
    pub fn database(&self, zone: usize) -> &SimDatabase {
        &self.0.cluster.zones[zone].database
    }

    /// Coordinators that ended without a request, in sentences.
    #[must_use]
    pub fn ended(&self) -> Vec<String> {
        self.0.ended.lock().clone()
    }

    fn place(&self, zone: usize, node: usize) -> usize {
        zone * self.0.plan.api_nodes + node
    }

    /// Starts a coordinator that does not run.
    pub fn start_coordinator(&self, zone: usize) {
        let Plan { auto, all_to_all, .. } = self.0.plan;
        let settings = Settings {
            geo: Geo { auto, ..Geo::default() },
            acks: if all_to_all { Acks::AllToAll } else { Acks::Leader },
            ..self.0.cluster.settings(zone, zone as u64 + 1)
        };
        let deployment = self.clone();
        self.0.cluster.start_coordinator(zone, settings, move |why| {
            let name = &deployment.zones()[zone].name;
            deployment.0.ended.lock().push(format!("the coordinator of {name} {why}"));
        });
    }

    /// Starts an API node that does not run.
    pub fn start_node(&self, zone: usize, node: usize) {
        self.0.cluster.start_node(self.place(zone, node), self.nearest(zone));
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
        let (process, node) = self.0.cluster.node(self.place(zone, node))?;
        Some((process, node?))
    }

    /// The process of a coordinator, if it runs.
    #[must_use]
    pub fn coordinator(&self, zone: usize) -> Option<Process> {
        self.0.cluster.coordinator(zone)
    }

    /// Tells a coordinator to hand leadership over and to stop, and kills it when it does not.
    pub async fn stop_coordinator(&self, zone: usize) {
        self.0.cluster.retire_coordinator(zone).await;
    }

    /// Ends a coordinator at this instant. Its disk stays.
    pub fn kill_coordinator(&self, zone: usize) {
        self.0.cluster.kill_coordinator(zone, false);
    }

    /// Ends an API node at this instant.
    pub fn kill_node(&self, zone: usize, node: usize) {
        self.0.cluster.kill_node(self.place(zone, node));
    }

    /// Status of the group, as reported by the first API node of a zone.
    pub async fn status(&self, zone: usize) -> Option<Status> {
        let (_, node) = self.node(zone, 0)?;
        Some(node.status().await)
    }

    /// Caller of a coordinator, for commands: as from an API node of its zone.
    pub(super) fn caller(&self, zone: usize) -> Option<pghc_runtime::rpc::Caller> {
        use pghc_runtime::rpc::Dial as _;
        let cluster = &self.0.cluster;
        let dialer = cluster.net.dialer(cluster.host(self.place(zone, 0)));
        dialer.caller(&url(zone), &cluster_id(), Duration::from_secs(5)).ok()
    }

    /// The zones.
    pub(super) fn zones(&self) -> &[Zone] {
        &self.0.cluster.zones
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
