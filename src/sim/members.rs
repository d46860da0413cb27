//! Membership in virtual time: learners join a founded group, leadership is transferred. Also runs
//! member commands, for the simulation too.

use std::time::Duration;

use pghc_runtime::rpc::Caller;
use pghc_runtime::rpc::v1::ChangeRequest;
use pghc_runtime::rpc::v1::change_request::Kind;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_server::zone::Service as _;
use tokio::time::{Instant, sleep, timeout};

use super::deployment::Deployment;
use super::net::url;

/// Longest wait for the answer to a command.
pub const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Longest wait until a command is done, or everyone is ready.
const DONE_MAX: Duration = Duration::from_secs(300);

/// Pause before a command is repeated.
const AGAIN: Duration = Duration::from_millis(250);

/// Longest wait for a joining learner within one command, in seconds.
const CATCH_UP_S: u32 = 10;

impl Deployment {
    /// Waits until the group is founded, adds the learners, transfers leadership to zone `leader`
    /// if given, and waits until every zone can read and write.
    ///
    /// # Errors
    /// A sentence, when that is not so after some minutes.
    pub async fn settle(&self, leader: Option<usize>) -> Result<(), String> {
        let voters = self.plan().voters.clone();
        let founded = self.wait(DONE_MAX, async || self.leader().await.is_some()).await;
        if !founded {
            return Err("no leader was elected".to_owned());
        }
        for zone in (0..self.zones().len()).filter(|zone| !voters.contains(zone)) {
            let request = ChangeRequest {
                new_id: zone as u64 + 1,
                zone: self.zones()[zone].name.to_string(),
                url: url(zone),
                learner: true,
                ..order(Kind::Add, 0)
            };
            self.insist(&request).await?;
        }
        if let Some(zone) = leader {
            self.lead(zone).await?;
        }
        let ready = self.wait(DONE_MAX, async || self.is_ready(leader).await).await;
        ready.then_some(()).ok_or_else(|| "not every zone is ready".to_owned())
    }

    async fn is_ready(&self, leader: Option<usize>) -> bool {
        let mut seen = Vec::new();
        for zone in 0..self.zones().len() {
            for node in 0..self.plan().api_nodes {
                let Some((_, node)) = self.node(zone, node) else { return false };
                if node.ready_to_write().is_err() {
                    return false;
                }
                let status = node.status().await;
                seen.push((status.leader, status.term));
            }
        }
        let wanted = leader.map(|zone| zone as u64 + 1);
        seen.iter().all(|one| *one == seen[0] && (wanted.is_none() || one.0 == wanted))
    }

    /// Zone of the leader, as the zone that knows of the newest term has it.
    pub async fn leader(&self) -> Option<(usize, u64)> {
        let mut newest: Option<(u64, u64)> = None;
        for zone in 0..self.zones().len() {
            if let Some(status) = self.status(zone).await
                && let Some(leader) = status.leader
                && newest.is_none_or(|(term, _)| term < status.term)
            {
                newest = Some((status.term, leader));
            }
        }
        let (term, leader) = newest?;
        Some((usize::try_from(leader).ok()?.checked_sub(1)?, term))
    }

    /// Moves leadership to the coordinator of zone `zone` and waits until it leads.
    ///
    /// # Errors
    /// A sentence, when it does not after some minutes.
    pub async fn lead(&self, zone: usize) -> Result<(), String> {
        let until = Instant::now() + DONE_MAX;
        while self.leader().await.map(|(leader, _)| leader) != Some(zone) {
            if Instant::now() >= until {
                let name = &self.zones()[zone].name;
                return Err(format!("leadership was not transferred to {name}"));
            }
            // Refused during an election; then it is tried again.
            let _ = self.command(&order(Kind::Lead, zone as u64 + 1)).await;
            sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Repeats a command until it is done.
    async fn insist(&self, request: &ChangeRequest) -> Result<(), String> {
        let until = Instant::now() + DONE_MAX;
        loop {
            let said = match self.command(request).await {
                Ok(last) if is_done(&last) => return Ok(()),
                Ok(said) | Err(said) => said,
            };
            if Instant::now() >= until {
                return Err(format!("{} does not join: {said}", request.zone));
            }
            sleep(AGAIN).await;
        }
    }

    /// Gives a command once, to the leader's coordinator; the last line of the answer.
    async fn command(&self, request: &ChangeRequest) -> Result<String, String> {
        let (zone, _) = self.leader().await.ok_or("no leader is known")?;
        let caller = self.caller(zone).ok_or("no way to the leader")?;
        give(caller, request).await
    }
}

/// Runs a command once; returns its last line of output.
///
/// # Errors
/// Why it was refused, or that there was no answer in time.
pub async fn give(caller: Caller, request: &ChangeRequest) -> Result<String, String> {
    let mut client = MembersClient::new(caller);
    let all = async {
        let mut lines = client.change(request.clone()).await?.into_inner();
        let mut last = String::new();
        while let Some(progress) = lines.message().await? {
            last = progress.line;
        }
        Ok::<_, tonic::Status>(last)
    };
    let ended = timeout(ANSWER_MAX, all).await.map_err(|_| "no answer in time".to_owned())?;
    ended.map_err(|status| status.message().to_owned())
}

/// Whether a command with this last line need not be repeated.
#[must_use]
pub fn is_done(last: &str) -> bool {
    last == "done" || last.contains("nothing to do")
}

/// A command about coordinator `id`, without a new coordinator.
#[must_use]
pub fn order(kind: Kind, id: u64) -> ChangeRequest {
    ChangeRequest {
        kind: kind.into(),
        coordinator_id: id,
        force: true,
        wait_seconds: CATCH_UP_S,
        ..ChangeRequest::default()
    }
}
