//! How a coordinator gets admitted: before it votes or acknowledges anything it asks the others who
//! they think it is.
//!
//! A disk that was wiped, copied or put back from a backup cannot know what it has forgotten, but
//! the others can: the membership names the incarnation of every member, each of them remembers
//! what it saw of it, and each calls back at the address it knows, where only one process answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;

use super::gate::Gate;
use super::identity::{Claim, WAY_OUT};
use super::log_store::LogStore;
use super::roster::Roster;
use super::type_config::{Member, Raft};
use crate::rpc::v1::hello_reply::Reached;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::{HelloReply, Introduction};
use crate::sabotage::{self, Bug};

/// Pause between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(100);

/// Rounds after which the log says what is waited for, again and again.
const ROUNDS_TOLD: u32 = 50;

/// What one other coordinator's answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It knows this incarnation as a member.
    Vouched,
    /// It knows of no group.
    New,
    /// Ask again.
    NotYet(String),
    /// This coordinator must not take part.
    Refused(String),
}

pub(super) struct Admission {
    pub(super) me: Introduction,
    pub(super) raft: Raft,
    pub(super) roster: Roster,
    pub(super) gate: Gate,
    pub(super) claim: Claim,
    pub(super) log: LogStore,
    /// Where a refusal is told.
    pub(super) refused: watch::Sender<Option<String>>,
}

impl Admission {
    /// Asks until this coordinator is admitted or refused.
    pub(super) async fn run(mut self) {
        for round in 0_u32.. {
            match self.round().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(why) => {
                    self.refused.send_replace(Some(why));
                    return std::future::pending().await;
                }
            }
            if round % ROUNDS_TOLD == ROUNDS_TOLD - 1 {
                tracing::warn!(
                    "not admitted yet: the other coordinators must be running, and reach this one \
                     at the address they know; asking on"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.gate.open();
        tracing::info!("admitted");
        // A coordinator that was just added has a log only now.
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
        self.claim.founded()
    }

    /// One round of asking everyone; whether this coordinator is admitted.
    async fn round(&mut self) -> Result<bool, String> {
        self.refresh().await?;
        let others: Vec<u64> =
            self.roster.ids().into_iter().filter(|id| *id != self.me.coordinator_id).collect();
        let answers = join_all(others.iter().map(|id| self.ask(*id))).await;
        let mut verdicts = Vec::new();
        let mut replies = Vec::new();
        for reply in answers.into_iter() {
            let verdict = match &reply {
                Ok(reply) => judge(&self.me, reply),
                Err(verdict) => verdict.clone(),
            };
            if let Verdict::Refused(why) = verdict {
                return Err(why);
            }
            tracing::debug!(?verdict, "an answer");
            verdicts.push(verdict);
            replies.extend(reply.ok().and_then(|reply| reply.me));
        }
        let vouched = verdicts.iter().filter(|verdict| **verdict == Verdict::Vouched).count();
        if self.me.founded {
            return Ok(vouched >= self.needed());
        }
        if vouched > 0 {
            // A group this coordinator belongs to, be it a moment older than itself.
            return Ok(true);
        }
        let is_founder = !self.me.founders.is_empty();
        let all_new = verdicts.iter().all(|verdict| *verdict == Verdict::New);
        if !is_founder || !all_new || replies.len() != others.len() {
            return Ok(false);
        }
        self.found(replies).await?;
        Ok(true)
    }

    /// Looks up the membership as openraft knows it, which has read the log by now.
    async fn refresh(&mut self) -> Result<(), String> {
        let read = self.raft.with_raft_state(|state| {
            let effective = state.membership_state.effective();
            super::type_config::StoredMembership::new(
                *effective.log_id(),
                effective.membership().clone(),
            )
        });
        let membership = read.await.map_err(|error| error.to_string())?;
        self.roster.update(&membership);
        let next = self.roster.members().1;
        self.me.membership_next = next;
        self.me.founded = next > 0 || !self.log.is_new();
        Ok(())
    }

    /// How many others must vouch: with this one they are a majority, without which nothing can be
    /// done anyway.
    fn needed(&self) -> usize {
        let voters = self.roster.voters();
        let majority = voters.len() / 2 + 1;
        let own = usize::from(voters.contains(&self.me.coordinator_id));
        (majority - own).min(majority)
    }

    async fn ask(&self, id: u64) -> Result<HelloReply, Verdict> {
        let Some(caller) = self.roster.caller(id) else {
            return Err(Verdict::NotYet(format!("no address of coordinator {id} is known")));
        };
        // The other calls back before it answers.
        let limit = self.roster.patience() * 2;
        let mut client = RaftClient::new(caller);
        match tokio::time::timeout(limit, client.hello(self.me.clone())).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            // One of the first version, which knows of no incarnations.
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Err(Verdict::Vouched),
            Ok(Err(status)) => Err(Verdict::NotYet(format!("coordinator {id}: {status}"))),
            Err(_) => Err(Verdict::NotYet(format!("coordinator {id} does not answer"))),
        }
    }

    /// Founds the group together with `others`, all of them as new as this one. Every founder writes
    /// the same first entry, so it does not matter who is first.
    async fn found(&mut self, others: Vec<Introduction>) -> Result<(), String> {
        let founders = others.into_iter().chain([self.me.clone()]);
        let member = |it: Introduction| {
            let Introduction { zone, url, incarnation, .. } = it;
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

/// What an answer means for the coordinator that asked.
fn judge(me: &Introduction, reply: &HelloReply) -> Verdict {
    let Some(other) = &reply.me else {
        return Verdict::NotYet("an answer without a name".to_owned());
    };
    let (my_id, other_id) = (me.coordinator_id, other.coordinator_id);
    let says = format!("coordinator {other_id} says:");
    let is_newer = other.membership_next > me.membership_next;
    if sabotage::is(Bug::WipedVotes) && other.membership_next > 0 {
        return Verdict::Vouched;
    }
    if reply.listed && !reply.incarnation.is_empty() && reply.incarnation != me.incarnation {
        if other.membership_next < me.membership_next {
            return Verdict::NotYet(format!("coordinator {other_id} is behind"));
        }
        return Verdict::Refused(format!(
            "{says} coordinator {my_id} is a member with another data directory than this one, which \
             was wiped or exchanged; it must not vote under this id, since it may have forgotten \
             acknowledged writes; {WAY_OUT}"
        ));
    }
    if other.membership_next > 0 && !reply.listed {
        return match (is_newer, me.founded, me.founders.is_empty()) {
            (true, true, _) => Verdict::Refused(format!(
                "{says} coordinator {my_id} is no longer a member; it was removed; nothing is lost, \
                 its data directory may be deleted"
            )),
            (true, false, false) => Verdict::Refused(format!(
                "{says} there is a group already and coordinator {my_id} is not in it; start with \
                 --join and add it: pghc members add {my_id}={}={}",
                me.zone, me.url
            )),
            _ => Verdict::NotYet("it is not a member yet".to_owned()),
        };
    }
    if let Some(lost) = older_than_seen(me, reply) {
        return Verdict::Refused(format!(
            "{says} {lost}; this data directory is a copy or an old backup, and must not vote again, \
             since it has forgotten acknowledged writes or votes; {WAY_OUT}"
        ));
    }
    match reply.reached() {
        Reached::Another => Verdict::Refused(format!(
            "{says} another process answers as coordinator {my_id} at {}; this data directory is a \
             copy of its; stop this one for good, or {WAY_OUT}",
            reply.url
        )),
        Reached::Nobody => Verdict::NotYet(format!(
            "coordinator {other_id} reaches nobody at {}, where it knows this one",
            reply.url
        )),
        Reached::Caller if other.membership_next > 0 => Verdict::Vouched,
        Reached::Caller if other.founded => Verdict::NotYet("it is starting".to_owned()),
        Reached::Caller if other.founders != me.founders => Verdict::NotYet(format!(
            "coordinator {other_id} would found another group: {}, not {}",
            other.founders, me.founders
        )),
        Reached::Caller => Verdict::New,
    }
}

/// What this coordinator's directory should know and does not.
fn older_than_seen(me: &Introduction, reply: &HelloReply) -> Option<String> {
    let (starts, boot) = (reply.seen_starts, &reply.seen_boot);
    if starts > me.starts || (starts == me.starts && !boot.is_empty() && *boot != me.boot) {
        return Some(format!(
            "it was started {starts} times before, this directory knows of {}",
            me.starts - 1
        ));
    }
    if reply.seen_term > me.term {
        let (seen, term) = (reply.seen_term, me.term);
        return Some(format!("it has voted in term {seen}, this directory knows of term {term}"));
    }
    (reply.seen_next_index > me.next_index).then(|| {
        format!(
            "it has acknowledged entries up to index {}, this directory holds {} of them",
            reply.seen_next_index - 1,
            me.next_index
        )
    })
}
