//! gRPC service that lists and changes the members. Followers forward a request to the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _, Precondition};
use pghc_runtime::rpc::v1::change_request::Kind;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::members_server;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::v1::{
    self, ChangeProgress, ChangeRequest, GetNodeInfoRequest, ListMembersRequest, MemberList,
    MemberView, NodeInfo, PlacementRequest, PlacementView, SwitchPlacementReply,
    SwitchPlacementRequest,
};
use pghc_runtime::task::Tasks;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::plan::{Change, Group, Step};
use crate::coordinator::consensus::type_config::{LogId, Member};
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::placement::topology_view::TopologyView;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::handle::leader;
use crate::coordinator::raft::leadership_transfer::{
    TransferLimit, step_down, transfer_leadership,
};
use crate::coordinator::raft::membership::acknowledged;
use crate::sequencer::ENTRY_FORMAT;

/// Most entries by which a caught-up learner may be behind the commit index.
const CAUGHT_UP_ENTRIES: u64 = 200;

/// Most times a request is forwarded.
const FORWARDS_MAX: u32 = 4;

/// Progress lines queued for a slow reader. Further lines are dropped, never the last one.
const LINES_MAX: usize = 64;

/// Time between two progress lines about a member that catches up.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct MembersService {
    id: u64,
    raft: Raft,
    peers: PeerDirectory,
    /// The leader's lease: about half an election timeout.
    lease: Duration,
    topology_view: TopologyView,
    /// Number of changes under way here.
    changing: Arc<AtomicUsize>,
    tasks: Tasks,
}

/// Counts a change while it is under way.
struct Changing(Arc<AtomicUsize>);

impl Changing {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Lines = mpsc::Sender<Result<ChangeProgress, Status>>;

/// Queues a progress line. The line is dropped if the reader is slow or has gone; the change goes
/// on.
fn send_line(lines: &Lines, line: impl Into<String>) {
    let _ = lines.try_send(Ok(ChangeProgress { line: line.into() }));
}

impl MembersService {
    /// `lease` is the leader's lease.
    pub(crate) fn new(
        id: u64,
        raft: &Raft,
        peers: &PeerDirectory,
        lease: Duration,
        topology_view: &TopologyView,
        tasks: &Tasks,
    ) -> Self {
        let (raft, peers, tasks) = (raft.clone(), peers.clone(), tasks.clone());
        let (topology_view, changing) = (topology_view.clone(), Arc::default());
        Self { id, raft, peers, lease, topology_view, changing, tasks }
    }

    /// Whether a change is under way here, or joint consensus has not ended.
    pub(crate) fn is_changing(&self) -> bool {
        self.changing.load(Ordering::Relaxed) > 0 || self.group().0.joint
    }

    /// Transfers leadership to voter `id` and returns the last progress line.
    pub(crate) async fn transfer_to(&self, id: u64) -> Result<String, Status> {
        let request = ChangeRequest {
            kind: Kind::Lead.into(),
            coordinator_id: id,
            ..ChangeRequest::default()
        };
        // The lines have no reader.
        let (lines, _) = mpsc::channel(1);
        self.forward(request, &lines).await
    }

    /// Returns the leader's id; waits through an election.
    async fn known_leader(&self) -> Result<u64, Status> {
        let until = Instant::now() + self.lease * 6;
        let mut metrics = self.raft.server_metrics();
        loop {
            if let Some(leader) = metrics.borrow_watched().current_leader {
                return Ok(leader);
            }
            if !matches!(tokio::time::timeout_at(until, metrics.changed()).await, Ok(Ok(()))) {
                return Err(Status::unavailable(
                    "no coordinator leads: a majority of the voters must be running; nothing was \
                     changed; start them and repeat",
                ));
            }
        }
    }

    fn client(&self, leader: u64) -> Result<MembersClient<pghc_runtime::rpc::Caller>, Status> {
        let connection = self.peers.connection(leader).ok_or_else(|| {
            Status::unavailable(format!("no address of the leader, coordinator {leader}, is known"))
        })?;
        Ok(MembersClient::new(connection))
    }

    /// Returns the group as this leader sees it, and the id of the membership's entry.
    fn group(&self) -> (Group, Option<LogId>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let configs = membership.get_joint_config();
        let recent = self.lease * 2;
        let heartbeat = metrics.heartbeat.iter().flatten();
        let reachable = heartbeat.filter(|(_, at)| at.is_some_and(|at| at.elapsed() < recent));
        let group = Group {
            members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            voters: configs.last().cloned().unwrap_or_default(),
            joint: configs.len() > 1,
            leader: self.id,
            reachable: reachable.map(|(id, _)| *id).chain([self.id]).collect(),
        };
        (group, *membership.log_id())
    }

    /// Returns the group once every member has answered or was silent for a lease. A new leader has
    /// no answers yet.
    async fn polled_group(&self) -> (Group, Option<LogId>) {
        let until = Instant::now() + self.lease * 2;
        let mut metrics = self.raft.metrics();
        loop {
            let (group, at) = self.group();
            if group.members.keys().all(|id| group.reachable.contains(id))
                || !matches!(tokio::time::timeout_at(until, metrics.changed()).await, Ok(Ok(())))
            {
                return (group, at);
            }
        }
    }

    async fn list(&self) -> MemberList {
        let (group, _) = self.polled_group().await;
        self.describe(&group)
    }

    /// Returns the present list of members.
    pub(crate) fn list_now(&self) -> MemberList {
        self.describe(&self.group().0)
    }

    fn describe(&self, group: &Group) -> MemberList {
        let mut acknowledged = acknowledged(&self.raft);
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.cluster_committed.as_ref().map_or(0, |it| it.index() + 1);
        acknowledged.insert(self.id, committed);
        let view = |(id, member): (&u64, &Member)| MemberView {
            coordinator_id: *id,
            zone: member.zone.clone(),
            url: self.peers.url(*id, Some(member)).unwrap_or_default(),
            incarnation: member.incarnation.clone(),
            voter: group.voters.contains(id),
            reachable: group.reachable.contains(id),
            acknowledged_next: acknowledged.get(id).copied().unwrap_or_default(),
        };
        MemberList {
            leader: self.id,
            term: metrics.vote.leader_id.term,
            committed_next: committed,
            members: group.members.iter().map(view).collect(),
            joint: group.joint,
        }
    }

    /// Plans and executes a request; returns the last progress line.
    async fn change(&self, request: ChangeRequest, lines: &Lines) -> Result<String, Status> {
        let mut change = change(&request)?;
        let _changing = Changing::begin(&self.changing);
        if let Change::Add { id, member, .. } | Change::Replace { new: id, member, .. } =
            &mut change
        {
            match self.group().0.members.get(id) {
                Some(known) if known.url == member.url => *member = known.clone(),
                Some(_) => {}
                None => member.incarnation = self.check_candidate(*id, member).await?,
            }
        }
        let (group, mut at) = self.polled_group().await;
        let plan = group.plan(&change, request.force);
        let plan = plan.map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
        if plan.steps.is_empty() {
            return Ok("nothing to do: the membership is already as requested".to_owned());
        }
        for line in plan.lines() {
            send_line(lines, line);
        }
        if request.dry_run {
            return Ok("dry run: nothing was changed".to_owned());
        }
        let until = Instant::now() + Duration::from_secs(u64::from(request.wait_seconds));
        for step in plan.steps {
            send_line(lines, format!("now: {step}"));
            let transferred = matches!(step, Step::TransferLeadership { .. });
            self.step(step, &mut at, until, lines).await?;
            match change {
                Change::Lead { id } => check_leader(self.known_leader().await?, id)?,
                // The new leader executes the rest.
                _ if transferred => return self.forward(request, lines).await,
                _ => {}
            }
        }
        Ok("done".to_owned())
    }

    /// Executes one step. `at` is the membership entry that the plan starts from, so that another
    /// command's change is not undone.
    async fn step(
        &self,
        step: Step,
        at: &mut Option<LogId>,
        until: Instant,
        lines: &Lines,
    ) -> Result<(), Status> {
        match step {
            Step::TransferLeadership { targets } => {
                let limit = TransferLimit { target: self.lease * 2, all: self.lease * 4 };
                if !transfer_leadership(&self.raft, self.id, &targets, limit).await {
                    let aside = step_down(self.raft.clone(), self.id, self.lease * 20);
                    self.tasks.spawn("step down", aside);
                    return Err(Status::unavailable(format!(
                        "no other voter became leader within {:?}; nothing is lost; repeat the \
                         command",
                        limit.all
                    )));
                }
                Ok(())
            }
            Step::AddLearner { id, member } => {
                self.commit(ChangeMembers::AddNodes([(id, member)].into()), at).await
            }
            Step::CatchUp { id } => self.catch_up(id, until, lines).await,
            Step::Voters(voters) => self.commit(ChangeMembers::ReplaceAllVoters(voters), at).await,
            Step::RemoveLearner { id } => {
                self.commit(ChangeMembers::RemoveNodes(BTreeSet::from([id])), at).await
            }
        }
    }

    /// Commits `change` if the membership is still that of entry `at`, then advances `at`.
    async fn commit(
        &self,
        change: ChangeMembers<u64, Member>,
        at: &mut Option<LogId>,
    ) -> Result<(), Status> {
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: *at };
        match self.raft.change_membership_if(change, true, [unchanged]).await {
            Ok(done) => {
                *at = Some(done.log_id);
                Ok(())
            }
            Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_))) => {
                Err(Status::unavailable(
                    "another command changed the members meanwhile; its change is kept, \
                     and this one was stopped; check pghc members list and repeat the \
                     command",
                ))
            }
            Err(error) => Err(Status::unavailable(format!(
                "the change was begun and may or may not have been agreed ({error}); nothing is lost; \
                 repeat the command"
            ))),
        }
    }

    /// Waits until a learner is within [`CAUGHT_UP_ENTRIES`] of the commit index.
    async fn catch_up(&self, id: u64, until: Instant, lines: &Lines) -> Result<(), Status> {
        let mut line_at = Instant::now() + PROGRESS_INTERVAL;
        let mut metrics = self.raft.metrics();
        loop {
            let committed = metrics
                .borrow_watched()
                .cluster_committed
                .as_ref()
                .map_or(0, |log_id| log_id.index() + 1);
            let has = acknowledged(&self.raft).get(&id).copied().unwrap_or_default();
            if has > 0 && has + CAUGHT_UP_ENTRIES >= committed {
                return Ok(());
            }
            if leader(&self.raft) != Some(self.id) {
                return Err(Status::unavailable(
                    "the leader changed meanwhile; nothing is lost; repeat the command",
                ));
            }
            let now = Instant::now();
            if now >= until {
                return Err(Status::deadline_exceeded(format!(
                    "coordinator {id} has {has} of {committed} entries after the longest \
                     wait; it stays a learner and catches up; is it running, at the address \
                     given? Repeat the command to go on"
                )));
            }
            if now >= line_at {
                send_line(lines, format!("coordinator {id} has {has} of {committed} entries"));
                line_at = now + PROGRESS_INTERVAL;
            }
            let wake_at = line_at.min(until);
            if let Ok(Err(_)) = tokio::time::timeout_at(wake_at, metrics.changed()).await {
                return Err(Status::unavailable("the coordinator is shutting down"));
            }
        }
    }

    /// Asks a new coordinator for its description and returns its incarnation.
    async fn check_candidate(&self, id: u64, member: &Member) -> Result<String, Status> {
        let url = self.peers.url(id, Some(member)).unwrap_or_default();
        let refuse = |why: String| Err(Status::failed_precondition(why));
        let Some(connection) = self.peers.connect(&url) else {
            return refuse(format!("{url:?} is not a URL such as http://10.0.0.1:7101"));
        };
        let mut client = RaftClient::new(connection);
        let known = self.group().0.members.into_iter().map(|(coordinator_id, member)| v1::Member {
            coordinator_id,
            zone: member.zone,
            url: member.url,
            voter: false,
        });
        let call = client.get_node_info(GetNodeInfoRequest { members: known.collect() });
        let it: NodeInfo = match tokio::time::timeout(self.lease * 2, call).await {
            Ok(Ok(it)) => it.into_inner(),
            Ok(Err(_)) | Err(_) => {
                return refuse(format!(
                    "no coordinator of this cluster answers at {url}; nothing was changed; start it \
                     first: pghc coordinator --id {id} --join …"
                ));
            }
        };
        if it.coordinator_id != id || it.zone != member.zone {
            return refuse(format!(
                "at {url} answers coordinator {} of zone {}, not coordinator {id} of zone {}; nothing \
                 was changed",
                it.coordinator_id, it.zone, member.zone
            ));
        }
        if it.entry_format < ENTRY_FORMAT {
            return refuse(format!(
                "coordinator {id} at {url} runs an older pghc than the leader and could not read its \
                 log; nothing was changed; start it with this version"
            ));
        }
        if it.founded || !it.founders.is_empty() {
            return refuse(format!(
                "coordinator {id} at {url} is not new, or was started without --join; nothing was \
                 changed; start it with an empty --data and --join"
            ));
        }
        Ok(it.incarnation)
    }

    /// Forwards the request to the leader, once it is known; returns the last progress line.
    async fn forward(&self, request: ChangeRequest, lines: &Lines) -> Result<String, Status> {
        let leader = self.known_leader().await?;
        if leader == self.id {
            return Box::pin(self.change(request, lines)).await;
        }
        if request.forward_count >= FORWARDS_MAX {
            return Err(Status::unavailable(
                "the leader changed several times meanwhile; nothing is lost; repeat the command",
            ));
        }
        let request = ChangeRequest { forward_count: request.forward_count + 1, ..request };
        let mut answers = self.client(leader)?.change(request).await?.into_inner();
        let mut last = None;
        while let Some(ChangeProgress { line }) = answers.message().await? {
            if let Some(line) = last.replace(line) {
                send_line(lines, line);
            }
        }
        last.ok_or_else(|| Status::unavailable("the leader sent no result; repeat the command"))
    }
}

/// Converts a request.
fn change(request: &ChangeRequest) -> Result<Change, Status> {
    let id = request.coordinator_id;
    let member =
        Member { zone: request.zone.clone(), url: request.url.clone(), incarnation: String::new() };
    let kind = Kind::try_from(request.kind);
    Ok(
        match kind.map_err(|_| {
            Status::invalid_argument("the change is unknown to this version of pghc")
        })? {
            Kind::Add => Change::Add { id: request.new_id, member, learner: request.learner },
            Kind::Replace => Change::Replace { old: id, new: request.new_id, member },
            Kind::Remove => Change::Remove { id },
            Kind::Promote => Change::Promote { id },
            Kind::Demote => Change::Demote { id },
            Kind::Lead => Change::Lead { id },
        },
    )
}

#[tonic::async_trait]
impl members_server::Members for MembersService {
    async fn list(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<MemberList>, Status> {
        let leader = self.known_leader().await?;
        if leader != self.id {
            return self.client(leader)?.list(request).await;
        }
        Ok(Response::new(self.list().await))
    }

    async fn placement(
        &self,
        request: Request<PlacementRequest>,
    ) -> Result<Response<PlacementView>, Status> {
        let leader = self.known_leader().await?;
        if leader != self.id {
            return self.client(leader)?.placement(request).await;
        }
        Ok(Response::new(self.topology_view.view(self.list_now())))
    }

    async fn switch_placement(
        &self,
        request: Request<SwitchPlacementRequest>,
    ) -> Result<Response<SwitchPlacementReply>, Status> {
        let leader = self.known_leader().await?;
        if leader != self.id {
            return self.client(leader)?.switch_placement(request).await;
        }
        let auto = request.into_inner().auto;
        let changed = self.topology_view.rtt_monitor().set_auto(auto).await;
        let changed = changed.map_err(|error| Status::unavailable(error.to_string()))?;
        tracing::info!(auto, changed, "automatic placement changed");
        Ok(Response::new(SwitchPlacementReply { changed }))
    }

    type ChangeStream = BoxStream<'static, Result<ChangeProgress, Status>>;

    async fn change(
        &self,
        request: Request<ChangeRequest>,
    ) -> Result<Response<Self::ChangeStream>, Status> {
        let (lines, reader) = mpsc::channel(LINES_MAX);
        let (service, request) = (self.clone(), request.into_inner());
        // The permit is reserved for the last line, so that sending it never waits.
        let place = lines.clone().try_reserve_owned();
        let place = place.map_err(|_| Status::internal("the progress channel is full"))?;
        self.tasks.spawn("membership change", async move {
            let last = service.forward(request, &lines).await;
            place.send(last.map(|line| ChangeProgress { line }));
        });
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(reader).boxed()))
    }
}

/// Checks the leader after a transfer: a slow target loses leadership to another voter.
fn check_leader(leader: u64, asked: u64) -> Result<(), Status> {
    if leader == asked {
        return Ok(());
    }
    Err(Status::unavailable(format!(
        "coordinator {asked} did not become leader in time, coordinator {leader} did; nothing is \
         lost; repeat the command"
    )))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::{ChangeProgress, LINES_MAX, send_line};

    #[tokio::test]
    async fn slow_reader_gets_the_last_line_without_blocking() {
        let (lines, mut reader) = mpsc::channel(LINES_MAX);
        let place = lines.clone().try_reserve_owned().expect("it is empty");
        for number in 0..LINES_MAX * 2 {
            send_line(&lines, number.to_string());
        }
        place.send(Ok(ChangeProgress { line: "done".to_owned() }));
        drop(lines);
        let mut last = None;
        while let Some(Ok(ChangeProgress { line })) = reader.recv().await {
            last = Some(line);
        }
        assert_eq!(last.as_deref(), Some("done"));
    }

    #[test]
    fn transfer_to_another_voter_is_reported_as_failed() {
        assert!(super::check_leader(2, 2).is_ok());
        let refusal = super::check_leader(1, 2).expect_err("another leads");
        assert_eq!(refusal.code(), tonic::Code::Unavailable, "so that it is asked for again");
    }
}
