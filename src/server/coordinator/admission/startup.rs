//! Admits this coordinator at startup: a quorum of peers checks its data directory first.
//!
//! A wiped, copied or restored disk cannot know what it has lost; its peers do. The membership
//! names every member's incarnation, peers keep a record of each other, and each peer connects back
//! to the address it knows. Until admission this coordinator neither votes nor acknowledges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use openraft::errors::{InitializeError, RaftError};
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::v1::{CheckAdmissionReply, NodeInfo};
use pghc_runtime::task::fair_watch;

use super::identity::DataDirIdentity;
use super::peer_history::PeerHistory;
use super::rules::{AdmissionDecision, evaluate, is_unused};
use crate::coordinator::consensus::type_config::{Member, StoredMembership};
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::raft::log_store::LogStore;

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Rounds between two warnings about a pending admission.
const ROUNDS_PER_WARNING: u32 = 50;

pub(crate) struct Admission {
    pub(crate) me: NodeInfo,
    pub(crate) raft: Raft,
    pub(crate) peers: PeerDirectory,
    pub(crate) traffic_guard: RaftTrafficGuard,
    pub(crate) identity: DataDirIdentity,
    pub(crate) log: LogStore,
    pub(crate) peer_history: PeerHistory,
    /// Publishes a rejection.
    pub(crate) refused: fair_watch::Sender<Option<String>>,
}

impl Admission {
    /// Asks peers until this coordinator is admitted or rejected.
    pub(crate) async fn run(mut self) {
        for round in 0_u32.. {
            let mut reasons = BTreeSet::new();
            match self.round(&mut reasons).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(why) => {
                    self.refused.send_replace(Some(why));
                    return std::future::pending().await;
                }
            }
            if round % ROUNDS_PER_WARNING == ROUNDS_PER_WARNING - 1 {
                tracing::warn!(
                    ?reasons,
                    "waiting for admission: a majority of coordinators must be up and able to \
                     connect back to this one"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.traffic_guard.admit();
        tracing::info!("admitted");
        // A coordinator that was just added gets its log only now.
        while self.log.is_new() {
            tokio::time::sleep(PAUSE).await;
        }
        if let Err(error) = self.mark().await {
            self.refused.send_replace(Some(error.to_string()));
            std::future::pending().await
        }
    }

    async fn mark(&mut self) -> std::io::Result<()> {
        self.log.flushed().await?;
        self.identity.founded()
    }

    /// Asks every peer once and returns whether this coordinator is admitted. Adds the reasons
    /// against it to `reasons`.
    async fn round(&mut self, reasons: &mut BTreeSet<String>) -> Result<bool, String> {
        let listed_next = self.refresh().await?;
        let others: Vec<u64> =
            self.peers.ids().into_iter().filter(|id| *id != self.me.coordinator_id).collect();
        let answers = join_all(others.iter().map(|id| self.ask(*id))).await;
        let mut decisions = Vec::new();
        for reply in answers.into_iter() {
            let decision = match &reply {
                Ok(reply) => evaluate(&self.me, listed_next, reply),
                Err(decision) => decision.clone(),
            };
            match &decision {
                AdmissionDecision::Reject(why) => return Err(why.clone()),
                AdmissionDecision::Retry(reason) => drop(reasons.insert(reason.clone())),
                AdmissionDecision::Accept | AdmissionDecision::Uninitialized => {}
            }
            tracing::debug!(?decision, "admission reply received");
            decisions.push((decision, reply.ok().and_then(|reply| reply.me)));
        }
        let accepted =
            decisions.iter().filter(|(decision, _)| *decision == AdmissionDecision::Accept).count();
        let new = |(decision, it): (AdmissionDecision, Option<NodeInfo>)| {
            it.filter(|_| decision == AdmissionDecision::Uninitialized)
        };
        let new: Vec<NodeInfo> = decisions.into_iter().filter_map(new).collect();
        if self.me.founded {
            return Ok(accepted >= self.needed() || self.is_before_all(&new));
        }
        if accepted > 0 {
            // An initialized peer of this group, at most one moment older than this one.
            return Ok(true);
        }
        let is_founder = !self.me.founders.is_empty();
        if !is_founder || new.len() != others.len() {
            return Ok(false);
        }
        self.found(new).await?;
        Ok(true)
    }

    /// Whether this founder and enough of the `new` peers are as founding left them: the founding
    /// directories, without any later record.
    fn is_before_all(&self, new: &[NodeInfo]) -> bool {
        let (members, next) = self.peers.members();
        let is_left = |it: &&NodeInfo| {
            let named = members.get(&it.coordinator_id).map(|member| member.incarnation.as_str());
            !it.incarnation.is_empty()
                && named == Some(it.incarnation.as_str())
                && !self.peer_history.of(it, &self.raft).is_ahead_of(it)
        };
        // The founders' entry has index 0: no other membership was ever agreed.
        next == 1 && is_unused(self.peers.voters().len(), new.iter().filter(is_left).count())
    }

    /// Reads the membership from openraft, which has read the log by now. Returns the index after
    /// the newest entry that lists this coordinator, if any.
    async fn refresh(&mut self) -> Result<Option<u64>, String> {
        let id = self.me.coordinator_id;
        let read = self.raft.with_raft_state(move |state| {
            let (effective, committed) =
                (state.membership_state.effective(), state.membership_state.committed());
            // The newest entry may be the one that removes this coordinator.
            let listed = [effective, committed].into_iter().find(|it| it.get_node(&id).is_some());
            let listed_next = listed.map(|it| it.log_id().map_or(0, |log_id| log_id.index() + 1));
            let (log_id, membership) = (*effective.log_id(), effective.membership().clone());
            (StoredMembership::new(log_id, membership), listed_next)
        });
        let (membership, listed_next) = read.await.map_err(|error| error.to_string())?;
        self.peers.update(&membership);
        let next = self.peers.members().1;
        self.me.membership_next = next;
        self.me.founded = next > 0 || !self.log.is_new();
        Ok(listed_next)
    }

    /// Number of peers that must accept: with this coordinator they are a majority.
    fn needed(&self) -> usize {
        let voters = self.peers.voters();
        let majority = voters.len() / 2 + 1;
        let own = usize::from(voters.contains(&self.me.coordinator_id));
        (majority - own).min(majority)
    }

    async fn ask(&self, id: u64) -> Result<CheckAdmissionReply, AdmissionDecision> {
        let Some(connection) = self.peers.connection(id) else {
            return Err(AdmissionDecision::Retry(format!(
                "no address of coordinator {id} is known"
            )));
        };
        // The peer connects back before it answers.
        let limit = self.peers.rpc_timeout() * 2;
        let mut client = RaftClient::new(connection);
        match tokio::time::timeout(limit, client.check_admission(self.me.clone())).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(AdmissionDecision::Retry(format!("coordinator {id}: {status}"))),
            Err(_) => Err(AdmissionDecision::Retry(format!("coordinator {id} does not answer"))),
        }
    }

    /// Founds the group with `others`, all as new as this coordinator. Every founder writes the
    /// same first entry, so the order of starts is irrelevant.
    async fn found(&mut self, others: Vec<NodeInfo>) -> Result<(), String> {
        let founders = others.into_iter().chain([self.me.clone()]);
        let member = |it: NodeInfo| {
            let NodeInfo { zone, url, incarnation, .. } = it;
            (it.coordinator_id, Member { zone, url, incarnation })
        };
        let members: BTreeMap<u64, Member> = founders.map(member).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(error.to_string()),
        }
        self.mark().await.map_err(|error| error.to_string())
    }
}
