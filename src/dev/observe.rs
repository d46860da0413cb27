//! Looking at a deployment from outside, over HTTP only: what its API nodes say of it.

use std::collections::BTreeMap;
use std::time::Duration;

use pghc_api::error::Problem;
use pghc_api::wire::{Status, ZoneReading, ZoneState};
use pghc_runtime::http_client::{Bounds, Failure, HttpClient};
use serde::Serialize;

use super::record::DeploymentRecord;

/// Longest time one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const BOUNDS: Bounds =
    Bounds { connect: ANSWER_MAX, silence: ANSWER_MAX, whole: ANSWER_MAX, answer_bytes: 1 << 20 };
/// A coordinator's report older than this counts as outdated.
const STALE_MS: u64 = 5_000;
/// Characters of an unexpected answer that are quoted.
const QUOTE_CHARS: usize = 600;

/// An API node to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Zone of the server, if known.
    pub zone: Option<String>,
    /// Its base URL without a slash at the end.
    pub url: String,
}

impl Node {
    /// All API nodes of a deployment.
    #[must_use]
    pub fn of_record(record: &DeploymentRecord) -> Vec<Self> {
        let zone = |zone: &super::record::ZoneRecord| {
            let name = zone.name.to_string();
            let node = move |url: &String| Self { zone: Some(name.clone()), url: url.clone() };
            zone.api.iter().map(node).collect::<Vec<_>>()
        };
        record.zones.iter().flat_map(zone).collect()
    }
}

/// The answer of one node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// Its base URL.
    pub url: String,
    /// Zone of the node, if known.
    pub zone: Option<String>,
    /// Name of the node, once it answered.
    pub node_id: Option<String>,
    /// Whether it serves reads and writes.
    pub ready: bool,
    /// Why not.
    pub problem: Option<String>,
    /// Which other zones it can read.
    pub readings: Vec<ZoneReading>,
    /// Its view of the cluster.
    #[serde(skip)]
    pub status: Option<Status>,
}

/// State of one zone as its deployment sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneView {
    /// Name of the zone.
    pub zone: String,
    /// Whether its applier is alive.
    pub state: ZoneState,
    /// Newest id its database has applied.
    pub frontier: u64,
    /// Ids of the head it has not applied yet.
    pub lag_ids: u64,
    /// API node that applies there.
    pub applier: Option<String>,
    /// Why it halted, when it did.
    pub message: Option<String>,
}

/// A whole deployment at one moment, put together from what its nodes answered.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// Whether nothing is wrong: `problems` is empty.
    pub healthy: bool,
    /// Identity of the cluster, once a node answered.
    pub cluster_id: Option<String>,
    /// Newest committed id that any node knows of.
    pub head: u64,
    /// Raft id of the leader.
    pub leader: Option<u64>,
    /// Zone of the leader.
    pub leader_zone: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Its zones.
    pub zones: Vec<ZoneView>,
    /// Its API nodes.
    pub nodes: Vec<NodeView>,
    /// Milliseconds since a coordinator last told any of the nodes: so old is what is shown. None: no
    /// coordinator has told any of them since they started.
    pub heard_ms: Option<u64>,
    /// The problems, in sentences.
    pub problems: Vec<String>,
}

/// Asks the same nodes again and again.
#[derive(Debug, Clone)]
pub struct Observer {
    http: HttpClient,
    nodes: Vec<Node>,
}

impl Observer {
    /// An observer of these nodes.
    ///
    /// # Panics
    /// If the system has no randomness to give to the HTTP client.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self { http: HttpClient::new(BOUNDS), nodes }
    }

    /// Why nodes are not ready, a sentence for each; empty when all are.
    pub async fn not_ready(&self) -> Vec<String> {
        let asked = futures::future::join_all(self.nodes.iter().map(|node| self.readiness(node)));
        asked.await.into_iter().filter_map(Result::err).collect()
    }

    /// Asks every node for its readiness and its view.
    pub async fn look(&self) -> Overview {
        let views = futures::future::join_all(self.nodes.iter().map(|node| self.view(node)));
        Overview::of(views.await)
    }

    async fn view(&self, node: &Node) -> NodeView {
        let (ready, status) = tokio::join!(self.readiness(node), self.status(node));
        let mut problem = ready.err();
        let ready = problem.is_none();
        let status = status.map_err(|error| problem.get_or_insert(error).clone()).ok();
        NodeView {
            url: node.url.clone(),
            zone: status.as_ref().map(|status| status.zone.clone()).or_else(|| node.zone.clone()),
            node_id: status.as_ref().map(|status| status.node_id.clone()),
            ready,
            problem,
            readings: status.as_ref().map(|it| it.readings.clone()).unwrap_or_default(),
            status,
        }
    }

    async fn readiness(&self, node: &Node) -> Result<(), String> {
        self.get(node, "/readyz").await?;
        self.get(node, "/readyz/write").await.map(drop)
    }

    async fn status(&self, node: &Node) -> Result<Status, String> {
        let text = self.get(node, "/v1/status").await?;
        serde_json::from_str(&text).map_err(|error| format!("{}/v1/status: {error}", node.url))
    }

    async fn get(&self, node: &Node, path: &str) -> Result<String, String> {
        let url = format!("{}{path}", node.url);
        let answer =
            self.http.send(self.http.get(&url)).await.map_err(|failure| match failure {
                failure if failure.is_timeout() => {
                    format!("{url} did not answer within {ANSWER_MAX:?}")
                }
                Failure::Broken(_) => format!("{url} is not reachable"),
                other => format!("{url}: {other}"),
            })?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == reqwest::StatusCode::OK {
            return Ok(text);
        }
        let said = match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => format!("{}: {}", problem.code.as_str(), problem.detail),
            Err(_) => text.trim().to_owned(),
        };
        let quote: String = said.chars().take(QUOTE_CHARS).collect();
        Err(format!("{url} answered {} {quote}", answer.status.as_u16()))
    }
}

impl Overview {
    /// Puts the answers together: the leader from the newest term, frontiers as far as anyone has
    /// seen them.
    #[must_use]
    pub fn of(nodes: Vec<NodeView>) -> Self {
        let statuses: Vec<&Status> = nodes.iter().filter_map(|node| node.status.as_ref()).collect();
        let head = statuses
            .iter()
            .map(|status| status.head.max(status.frontier))
            .max()
            .unwrap_or_default();
        let newest = statuses
            .iter()
            .max_by_key(|status| (status.term, status.leader.is_some(), status.head))
            .copied();
        let zones = newest.map(|newest| zones_of(newest, &statuses, head)).unwrap_or_default();
        let leader = newest.and_then(|status| status.leader);
        let mut problems: Vec<String> =
            nodes.iter().filter_map(|node| node.problem.clone()).collect();
        let heard_ms = statuses.iter().filter_map(|status| status.heard_ms).min();
        match heard_ms {
            _ if newest.is_none() => {}
            None => problems.push(
                "no coordinator answers; each node shows what it knows of its own zone".to_owned(),
            ),
            Some(ms) if ms >= STALE_MS => problems.push(format!(
                "no coordinator answers; what is shown is {} s old, but for each node's own zone",
                ms / 1_000
            )),
            Some(_) if leader.is_none() => problems.push("no coordinator leads".to_owned()),
            Some(_) => {}
        }
        let clusters = statuses.iter().map(|status| status.cluster_id.as_str());
        if clusters.collect::<std::collections::BTreeSet<_>>().len() > 1 {
            problems.push("the nodes are of different clusters".to_owned());
        }
        problems.extend(nodes.iter().flat_map(unreadable));
        for zone in &zones {
            let reason = zone.message.as_deref().unwrap_or("no reason given");
            match zone.state {
                ZoneState::Live | ZoneState::Lagging => {}
                ZoneState::Detached => problems.push(format!(
                    "zone {} is detached: the log no longer reaches back to its id {}, it is \
                     filled from another zone when it is back",
                    zone.zone, zone.frontier
                )),
                ZoneState::Reseeding => {
                    problems.push(format!("zone {} is being filled: {reason}", zone.zone));
                }
                ZoneState::Halted => problems.push(format!("zone {} halted: {reason}", zone.zone)),
                ZoneState::Stalled => {
                    problems.push(format!("zone {} does not get on: {reason}", zone.zone));
                }
                ZoneState::Silent => problems.push(format!("zone {} is silent", zone.zone)),
            }
        }
        Self {
            healthy: problems.is_empty() && !nodes.is_empty(),
            cluster_id: newest.map(|status| status.cluster_id.clone()),
            head,
            leader,
            leader_zone: newest.and_then(|status| status.leader_zone.clone()),
            term: newest.map(|status| status.term).unwrap_or_default(),
            zones,
            heard_ms,
            problems,
            nodes,
        }
    }
}

/// Zones that a node reports as unreadable, in sentences.
fn unreadable(node: &NodeView) -> Vec<String> {
    let name = node.node_id.as_deref().unwrap_or(&node.url);
    let fails = node.readings.iter().filter(|reading| !reading.reads);
    let sentence = |reading: &ZoneReading| {
        let at = reading.url.as_deref().map(|url| format!(" at {url}")).unwrap_or_default();
        let why = reading.message.as_deref().unwrap_or("no reason given");
        format!("API node {name} cannot read zone {}{at}: {why}", reading.zone)
    };
    fails.map(sentence).collect()
}

fn zones_of(newest: &Status, statuses: &[&Status], head: u64) -> Vec<ZoneView> {
    let view = |zone: &pghc_api::wire::ZoneStatus| {
        let own = statuses.iter().filter(|status| status.zone == zone.zone);
        let frontier =
            own.map(|status| status.frontier).fold(zone.frontier, |most, seen| most.max(seen));
        ZoneView {
            zone: zone.zone.clone(),
            state: zone.state,
            frontier,
            lag_ids: head.saturating_sub(frontier),
            applier: zone.applier.clone(),
            message: zone.message.clone(),
        }
    };
    // A zone's own node knows it best, above all where no coordinator has told lately.
    let is_old = newest.heard_ms.is_none_or(|ms| ms >= STALE_MS);
    let own = |zone: &str| {
        let of = statuses.iter().filter(|status| status.zone == zone);
        of.flat_map(|status| &status.zones).find(|it| it.zone == zone)
    };
    let mut all: BTreeMap<&str, &pghc_api::wire::ZoneStatus> =
        newest.zones.iter().map(|zone| (zone.zone.as_str(), zone)).collect();
    if is_old {
        let owned =
            statuses.iter().filter_map(|status| Some((status.zone.as_str(), own(&status.zone)?)));
        all.extend(owned);
    }
    all.into_values().map(view).collect()
}

#[cfg(test)]
mod tests {
    use pghc_api::wire::{Status, ZoneReading, ZoneState, ZoneStatus};

    use super::{NodeView, Overview};

    fn node(
        zone: &str,
        term: u64,
        leader: Option<u64>,
        frontier: u64,
        state: ZoneState,
    ) -> NodeView {
        let seen = |zone: &str| ZoneStatus {
            zone: zone.to_owned(),
            state,
            frontier: 3,
            lag_ids: 0,
            applier: None,
            message: None,
        };
        let status = Status {
            cluster_id: "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".to_owned(),
            zone: zone.to_owned(),
            node_id: format!("{zone}-1"),
            is_applier: true,
            frontier,
            head: 9,
            leader,
            leader_zone: leader.map(|_| zone.to_owned()),
            term,
            coordinators: Vec::new(),
            zones: vec![seen("eu"), seen("us")],
            halted: None,
            readings: Vec::new(),
            heard_ms: Some(1),
        };
        let (url, zone) = (format!("http://{zone}"), Some(zone.to_owned()));
        let (node_id, status) = (Some(status.node_id.clone()), Some(status));
        let readings = Vec::new();
        NodeView { url, zone, node_id, ready: true, problem: None, readings, status }
    }

    #[test]
    fn leader_is_taken_from_newest_term() {
        let live = ZoneState::Live;
        let all =
            Overview::of(vec![node("eu", 2, Some(1), 4, live), node("us", 3, Some(2), 7, live)]);
        assert_eq!((all.term, all.leader, all.leader_zone.as_deref()), (3, Some(2), Some("us")));
        let frontiers: Vec<_> =
            all.zones.iter().map(|zone| (zone.frontier, zone.lag_ids)).collect();
        assert_eq!(frontiers, [(4, 5), (7, 2)]);
        assert!(all.healthy, "{:?}", all.problems);
    }

    #[test]
    fn deployment_is_unhealthy_without_leader_zone_or_nodes() {
        assert!(!Overview::of(vec![node("eu", 2, None, 4, ZoneState::Live)]).healthy);
        assert!(!Overview::of(vec![node("eu", 2, Some(1), 4, ZoneState::Silent)]).healthy);
        assert!(!Overview::of(vec![node("eu", 2, Some(1), 4, ZoneState::Halted)]).healthy);
        assert!(!Overview::of(Vec::new()).healthy);
    }

    #[test]
    fn a_zone_that_a_node_cannot_read_is_a_problem_in_words() {
        let mut eu = node("eu", 2, Some(1), 4, ZoneState::Live);
        let us = |reads| ZoneReading {
            zone: "us".to_owned(),
            url: Some("http://us:1".to_owned()),
            reads,
            message: Some("refused".to_owned()).filter(|_| !reads),
        };
        eu.readings = vec![us(true)];
        assert!(Overview::of(vec![eu.clone()]).healthy);
        eu.readings = vec![us(false)];
        let problems = Overview::of(vec![eu]).problems;
        assert_eq!(problems, ["API node eu-1 cannot read zone us at http://us:1: refused"]);
    }

    #[test]
    fn status_uses_node_reports_without_coordinators() {
        let lonely = |zone: &str, frontier, heard_ms| {
            let mut node = node(zone, 0, None, frontier, ZoneState::Live);
            let status = node.status.as_mut().expect("there is one");
            status.heard_ms = heard_ms;
            status.zones.retain(|it| it.zone == zone);
            node
        };
        let all = Overview::of(vec![lonely("eu", 7, None), lonely("us", 9, None)]);
        let zones: Vec<_> = all.zones.iter().map(|it| (it.zone.as_str(), it.frontier)).collect();
        assert_eq!((all.head, zones), (9, vec![("eu", 7), ("us", 9)]));
        assert!(all.problems[0].contains("no coordinator answers"), "{:?}", all.problems);
        let all = Overview::of(vec![lonely("eu", 7, Some(61_000)), lonely("us", 9, None)]);
        assert!(all.problems[0].contains("61 s old"), "{:?}", all.problems);
    }
}
