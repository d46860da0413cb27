//! One API node: its tasks, and the service that HTTP stands on.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pghc_api::chain::Link;
use pghc_api::id::WriteId;
use pghc_api::wire::{CoordinatorStatus, Status, ZoneState, ZoneStatus};
use pghc_postgres::{Commit, Dsn, Reader};
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::v1::zone_view::State;
use pghc_runtime::rpc::v1::{AwaitRequest, ReadIndexRequest, ZoneView};
use pghc_runtime::rpc::{Dial, Tcp};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use tokio::time::{Instant, timeout_at};

use super::apply::applier::ApplierTask;
use super::apply::peer;
use super::audit::background::{Auditor, Settings as Audit};
use super::audit::guard::{Guard, Look};
use super::audit::schema_check;
use super::audit::witness::Witness;
use super::coordinators::Coordinators;
use super::database::{Database, Postgres};
use super::node_state::NodeState;
use super::read::reachable_zones::{Readings, Trying};
use super::read::read_check;
use super::read::reads::Reads;
use super::read::replica::Replica;
use super::reports::reporter;
use super::reports::views::Views;
use super::submit::queue::Submitter;
use super::{
    Identity, NewWrite, OrderResult, ReadError, ReadRequirement, ReadResult, Recent, Service,
    SubmitError, Unready,
};

/// Reading sessions of one node.
const READERS: usize = 8;

/// Pause before a coordinator is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// A zone that has not reported for so long counts as silent.
const SILENT_MS: u64 = 5_000;

/// The settings of an API node.
pub struct Settings {
    /// Its identity.
    pub identity: Identity,
    /// Its zone's database.
    pub database: Dsn,
    /// Physical replicas of that database, which serve reads that say how far they must be.
    pub replicas: Vec<Dsn>,
    /// When the applier's commits are answered.
    pub commit: Commit,
    /// URLs of the coordinators, nearest first.
    pub coordinators: Vec<String>,
    /// How its chain is checked in the background; `None`: not at all.
    pub audit: Option<Audit>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
}

/// The environment of a node: real in every deployment, simulated in `tests/sim`.
pub struct Outside {
    /// Its zone's database.
    pub database: Arc<dyn Database>,
    /// Reaches the coordinators.
    pub dial: Arc<dyn Dial>,
    /// Names the node's batches; never used by another process, before or after.
    pub session: crate::sequencer::SessionId,
    /// Checks, evidence and replicas of a database that other logins can reach.
    pub own: Option<OwnChain>,
}

/// The zone's own chain as it stands in a real database.
pub struct OwnChain {
    /// The database.
    pub database: Dsn,
    /// Its physical replicas, to be read from.
    pub replicas: Vec<Dsn>,
    /// How the chain is checked in the background; `None`: not at all.
    pub audit: Option<Audit>,
}

/// A running API node, without its HTTP face.
pub struct Node {
    identity: Identity,
    node_state: Arc<NodeState>,
    submitter: Submitter,
    reads: Reads,
    coordinators: Coordinators,
    views: Arc<Views>,
    readings: Arc<Readings>,
}

impl Node {
    /// Starts the node's tasks under `tasks`. It becomes ready when its database and a coordinator
    /// answer; until then and whenever they do not, it tries again by itself.
    ///
    /// # Errors
    /// If a coordinator's URL is not a URL.
    pub fn start(settings: Settings, tasks: &Tasks) -> Result<Self, tonic::transport::Error> {
        let Settings { identity, database, replicas, commit, coordinators, audit, metrics } =
            settings;
        let own = Postgres::new(database.clone(), commit, READERS, tasks);
        let own = own.recomputing(&identity.cluster);
        let outside = Outside {
            database: Arc::new(own),
            dial: Arc::new(Tcp),
            session: uuid::Uuid::new_v4().into_bytes(),
            own: Some(OwnChain { database, replicas, audit }),
        };
        Self::start_in(outside, identity, &coordinators, metrics, tasks)
    }

    /// As [`Self::start`], in any surroundings.
    ///
    /// # Errors
    /// If a coordinator's URL is not a URL.
    #[expect(clippy::too_many_lines, reason = "a list of what runs, one part after the other")]
    pub fn start_in(
        outside: Outside,
        identity: Identity,
        coordinators: &[String],
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> Result<Self, tonic::transport::Error> {
        let Outside { database, dial, session, own } = outside;
        let coordinators = Coordinators::new(dial.as_ref(), &identity.cluster, coordinators)?;
        let node_state = Arc::new(NodeState::new());
        let submitter = Submitter::start(
            session,
            (identity.zone.clone(), identity.node.clone()),
            coordinators.clone(),
            Arc::clone(&metrics),
            tasks,
        );
        let views =
            reporter::start((&identity, session), &node_state, &coordinators, &metrics, tasks);
        let http = peer::client();
        let readings = Arc::new(Readings::default());
        if own.is_some() {
            let trying = Trying {
                identity: identity.clone(),
                views: Arc::clone(&views),
                http: http.clone(),
                readings: Arc::clone(&readings),
                metrics: Arc::clone(&metrics),
            };
            tasks.spawn("readings", trying.run());
        }
        let witness = Witness {
            identity: identity.clone(),
            coordinators: coordinators.clone(),
            views: Arc::clone(&views),
            http,
        };
        let auditor = own.as_ref().map(|own| Auditor {
            identity: identity.clone(),
            dsn: own.database.clone(),
            reader: Reader::new(&own.database, 1),
            database: Arc::clone(&database),
            node_state: Arc::clone(&node_state),
            witness: witness.clone(),
            tasks: tasks.clone(),
        });
        let look = Look::new(witness.clone(), Arc::clone(&database), Arc::clone(&node_state));
        let guard = Guard { look, node_state: Arc::clone(&node_state), auditor: auditor.clone() };
        tasks.spawn("guard", guard.run());
        if let Some((auditor, audit)) = auditor.clone().zip(own.as_ref().and_then(|o| o.audit)) {
            tasks.spawn("auditor", auditor.run(audit));
        }
        let replica = |dsn: &Dsn| {
            let database = Postgres::new(dsn.clone(), Commit::OnDisk, READERS, tasks);
            let database = Arc::new(database.recomputing(&identity.cluster));
            let replica = Arc::new(Replica::new(database));
            let watch = Arc::clone(&replica).watch(witness.clone(), Arc::clone(&node_state));
            tasks.spawn("replica", watch);
            replica
        };
        let replicas = own.iter().flat_map(|own| &own.replicas).map(replica).collect();
        let reads = Reads::new(Arc::clone(&database), replicas, Arc::clone(&node_state));
        if let Some(own) = &own {
            let checking = read_check::run(Arc::clone(&database), Arc::clone(&node_state));
            tasks.spawn("read check", checking);
            let reader = Reader::new(&own.database, 1);
            tasks.spawn("schema check", schema_check::run(reader, Arc::clone(&node_state)));
        }
        let applying = ApplierTask {
            identity: identity.clone(),
            database,
            witness,
            node_state: Arc::clone(&node_state),
            auditor,
            metrics,
            tasks: tasks.clone(),
        };
        tasks.spawn("applier", applying.run());
        Ok(Self { identity, node_state, submitter, reads, coordinators, views, readings })
    }

    async fn everywhere(&self, id: u64, deadline: Instant) -> Result<(), ReadError> {
        loop {
            let (place, mut client) = self.coordinators.nearest();
            let mut request = tonic::Request::new(AwaitRequest { id });
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            match timeout_at(deadline, client.await_everywhere(request)).await {
                Ok(Ok(reply)) if reply.get_ref().everywhere => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(_)) if Instant::now() < deadline => self.coordinators.note(place, false),
                _ => return Err(ReadError::NotEverywhere(self.behind(id))),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Zones behind `id` as the last report's answer has them.
    fn behind(&self, id: u64) -> Vec<String> {
        let zones = self.views.of(self.coordinators.nearest().0).map(|view| view.zones);
        let behind = zones.unwrap_or_default().into_iter().filter(|zone| zone.frontier < id);
        behind.map(|zone| zone.zone).collect()
    }

    async fn confirmed(&self, deadline: Instant) -> Result<u64, ReadError> {
        let mut refused = false;
        loop {
            let (place, mut client) = self.coordinators.nearest();
            let mut request = tonic::Request::new(ReadIndexRequest::default());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            match timeout_at(deadline, client.read_index(request)).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner().id),
                Ok(Err(_)) if Instant::now() < deadline => {
                    refused = true;
                    self.coordinators.note(place, false);
                    tokio::time::sleep(RETRY).await;
                }
                _ if refused || self.leaderless().is_some() => return Err(ReadError::NoLeader),
                _ => return Err(ReadError::TimeLimit),
            }
        }
    }

    /// Why nothing can be ordered, as far as this node knows; `None` while a coordinator leads.
    fn leaderless(&self) -> Option<&'static str> {
        let view = self.views.of(self.coordinators.nearest().0);
        match view.filter(|_| self.coordinators.any_answers()) {
            Some(view) if view.leader != 0 => None,
            Some(_) => Some("no coordinator leads"),
            None => Some("no coordinator answers"),
        }
    }

    fn cluster_status(&self) -> Status {
        let place = self.coordinators.nearest().0;
        let (view, heard) = self.views.newest(place).unzip();
        let mut view = view.unwrap_or_default();
        let head = self.views.head().max(self.node_state.frontier.id());
        // While no coordinator answers, no leader is known.
        let leader = Some(view.leader).filter(|it| *it != 0 && self.coordinators.any_answers());
        if let Some(heard) = heard {
            let age_ms = u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX);
            view.zones
                .iter_mut()
                .for_each(|zone| zone.silent_ms = zone.silent_ms.saturating_add(age_ms));
        }
        let mut zones: Vec<_> =
            view.zones.into_iter().map(|zone| self.zone_status(zone, head)).collect();
        self.add_own(&mut zones, head);
        let leader_zone =
            view.members.iter().find(|m| Some(m.coordinator_id) == leader).map(|m| m.zone.clone());
        let coordinator = |member: pghc_runtime::rpc::v1::Member| CoordinatorStatus {
            coordinator_id: member.coordinator_id,
            zone: member.zone,
            voter: member.voter,
        };
        Status {
            cluster_id: self.identity.cluster.to_string(),
            zone: self.identity.zone.to_string(),
            node_id: self.identity.node.to_string(),
            is_applier: self.node_state.is_applier(),
            frontier: self.node_state.frontier.id(),
            head,
            leader,
            leader_zone,
            term: view.term,
            coordinators: view.members.into_iter().map(coordinator).collect(),
            zones,
            halted: self.node_state.frontier.halted(),
            readings: self.readings.all(),
            heard_ms: heard
                .map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// This node's own view of its zone, where no coordinator has told of it lately.
    fn add_own(&self, zones: &mut Vec<ZoneStatus>, head: u64) {
        let own = self.identity.zone.as_str();
        if zones.iter().any(|zone| zone.zone == own && zone.state != ZoneState::Silent) {
            return;
        }
        zones.retain(|zone| zone.zone != own);
        let (frontier, halted) = (self.node_state.frontier.id(), self.node_state.frontier.halted());
        let degraded_reason = self.node_state.degraded_reason();
        let state = match (&halted, &degraded_reason) {
            (Some(_), _) => ZoneState::Halted,
            (None, Some(_)) => ZoneState::Stalled,
            (None, None) => ZoneState::Live,
        };
        zones.push(ZoneStatus {
            zone: own.to_owned(),
            state,
            frontier,
            lag_ids: head.saturating_sub(frontier),
            applier: self.node_state.is_applier().then(|| self.identity.node.to_string()),
            message: halted.or(degraded_reason),
        });
        zones.sort_by(|one, other| one.zone.cmp(&other.zone));
    }
}

impl Node {
    /// How a zone stands; of this one also what is wrong with its schema though it gets on.
    fn zone_status(&self, zone: ZoneView, head: u64) -> ZoneStatus {
        let is_own = zone.zone == self.identity.zone.as_str();
        let mut status = zone_status(zone, head);
        if is_own && status.message.is_none() {
            status.message = self.node_state.schema_warning();
        }
        status
    }
}

/// The state that an operator must know first comes first: the zone must be filled, is absent, or
/// does not advance.
fn zone_state(zone: &ZoneView) -> ZoneState {
    match zone.state() {
        State::Detached => ZoneState::Detached,
        _ if zone.silent_ms > SILENT_MS => ZoneState::Silent,
        _ if !zone.halted.is_empty() => ZoneState::Halted,
        State::Reseeding => ZoneState::Reseeding,
        _ if !zone.degraded_reason.is_empty() => ZoneState::Stalled,
        State::Lagging => ZoneState::Lagging,
        State::Live => ZoneState::Live,
    }
}

fn zone_status(zone: ZoneView, head: u64) -> ZoneStatus {
    let state = zone_state(&zone);
    ZoneStatus {
        zone: zone.zone,
        state,
        frontier: zone.frontier,
        lag_ids: head.saturating_sub(zone.frontier),
        applier: Some(zone.applier).filter(|applier| !applier.is_empty()),
        message: [zone.halted, zone.degraded_reason].into_iter().find(|why| !why.is_empty()),
    }
}

impl Service for Node {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn frontier(&self) -> u64 {
        self.node_state.frontier.id()
    }

    fn seen(&self) -> u64 {
        self.node_state.frontier.seen()
    }

    fn known(&self) -> u64 {
        self.node_state.known_frontier()
    }

    fn may_read(&self) -> Result<(), ReadError> {
        match (self.node_state.frontier.halted(), self.node_state.database_error()) {
            (Some(why), _) => Err(ReadError::Halted(why)),
            (None, Some(why)) if !self.reads.has_replica() => Err(ReadError::Database(why)),
            (None, _) => Ok(()),
        }
    }

    fn ready_to_read(&self) -> Result<(), Unready> {
        match self.may_read() {
            Ok(()) if !self.reads.is_servable() => {
                let why = self.node_state.doubted();
                Err(why.unwrap_or_else(|| "no replica may be read".to_owned()).into())
            }
            Ok(()) => {
                let why = self.node_state.refused().or_else(|| self.node_state.backfill());
                why.map_or(Ok(()), |why| Err(why.into()))
            }
            Err(ReadError::Halted(why)) => Err(Unready::Halted(why)),
            Err(ReadError::Database(why)) => Err(why.into()),
            Err(error) => Err(error.to_string().into()),
        }
    }

    fn ready_to_write(&self) -> Result<(), Unready> {
        if let Some(why) = self.node_state.frontier.halted() {
            return Err(Unready::Halted(why));
        }
        if let Some(why) = self.node_state.degraded_reason().or_else(|| self.node_state.backfill())
        {
            return Err(why.into());
        }
        self.leaderless().map_or(Ok(()), |why| Err(why.to_owned().into()))
    }

    fn submit(
        &self,
        writes: Vec<NewWrite>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<OrderResult>, SubmitError>> {
        Box::pin(async move {
            if let Some(why) = self.node_state.frontier.halted() {
                return Err(SubmitError::Halted(why));
            }
            if let Some(why) = self.node_state.refused() {
                return Err(SubmitError::Refused(why));
            }
            self.submitter.submit(writes, deadline).await
        })
    }

    fn wait_applied(&self, id: u64, deadline: Instant) -> BoxFuture<'_, Result<u64, ReadError>> {
        if mutation::is_active(Mutant::AckBeforeApply) {
            return Box::pin(async move { Ok(id) });
        }
        Box::pin(self.node_state.frontier.reach(id, deadline))
    }

    fn wait_everywhere(&self, id: u64, deadline: Instant) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(self.everywhere(id, deadline))
    }

    fn read_index(&self, deadline: Instant) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(self.confirmed(deadline))
    }

    fn link(
        &self,
        id: WriteId,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>> {
        Box::pin(async move {
            let query = move |from: Arc<dyn Database>| -> BoxFuture<'static, _> {
                Box::pin(async move { from.link(id).await })
            };
            self.reads.read(need, &query).await
        })
    }

    fn newest(
        &self,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>> {
        Box::pin(async move {
            let query = |from: Arc<dyn Database>| -> BoxFuture<'static, _> {
                Box::pin(async move { from.newest().await })
            };
            self.reads.read(need, &query).await
        })
    }

    fn page(
        &self,
        after: u64,
        limit: usize,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<Link>>, ReadError>> {
        Box::pin(async move {
            let query = move |from: Arc<dyn Database>| -> BoxFuture<'static, _> {
                Box::pin(async move {
                    from.page(after, limit).await.map(|page| (page.links, page.frontier))
                })
            };
            self.reads.read(need, &query).await
        })
    }

    fn recent(
        &self,
        count: usize,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<Recent>>, ReadError>> {
        Box::pin(async move {
            let query = move |from: Arc<dyn Database>| -> BoxFuture<'static, _> {
                Box::pin(async move { from.recent(count).await })
            };
            self.reads.read(need, &query).await
        })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move { self.cluster_status() })
    }
}
