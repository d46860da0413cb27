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

use super::gate::Gate;
use super::identity::{Claim, WAY_OUT};
use super::log_store::LogStore;
use super::roster::Roster;
use super::sightings::Sightings;
use super::type_config::{Member, Raft};
use crate::rpc::v1::hello_reply::Reached;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::v1::{HelloReply, Introduction};
use crate::sabotage::{self, Bug};
use crate::task::watch;

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
    pub(super) sightings: Sightings,
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
        for reply in answers.into_iter() {
            let verdict = match &reply {
                Ok(reply) => judge(&self.me, reply),
                Err(verdict) => verdict.clone(),
            };
            if let Verdict::Refused(why) = verdict {
                return Err(why);
            }
            tracing::debug!(?verdict, "an answer");
            verdicts.push((verdict, reply.ok().and_then(|reply| reply.me)));
        }
        let vouched = verdicts.iter().filter(|(verdict, _)| *verdict == Verdict::Vouched).count();
        let new =
            |(verdict, it): (Verdict, Option<Introduction>)| it.filter(|_| verdict == Verdict::New);
        let new: Vec<Introduction> = verdicts.into_iter().filter_map(new).collect();
        if self.me.founded {
            return Ok(vouched >= self.needed() || self.is_before_all(&new));
        }
        if vouched > 0 {
            // A group this coordinator belongs to, be it a moment older than itself.
            return Ok(true);
        }
        let is_founder = !self.me.founders.is_empty();
        if !is_founder || new.len() != others.len() {
            return Ok(false);
        }
        self.found(new).await?;
        Ok(true)
    }

    /// Whether this founder and enough of the `new`, who know of no group, are where founding left them:
    /// they are the directories that founded it, and nothing else was ever seen of them.
    fn is_before_all(&self, new: &[Introduction]) -> bool {
        let (members, next) = self.roster.members();
        let is_left = |it: &&Introduction| {
            let named = members.get(&it.coordinator_id).map(|member| member.incarnation.as_str());
            !it.incarnation.is_empty()
                && named == Some(it.incarnation.as_str())
                && !self.sightings.of(it, &self.raft).is_beyond(it)
        };
        // The founders' own entry has index 0: no other membership was ever agreed on.
        next == 1 && is_unused(self.roster.voters().len(), new.iter().filter(is_left).count())
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
            // One of the first version, which knows of no incarnations and so cannot tell a new
            // directory from a wiped one.
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
                Err(older(self.me.founded, id))
            }
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

/// What it means that coordinator `id` runs a build that cannot be asked.
fn older(founded: bool, id: u64) -> Verdict {
    if founded {
        return Verdict::Vouched;
    }
    Verdict::NotYet(format!(
        "coordinator {id} runs an older pghc, which cannot vouch for a new directory"
    ))
}

/// Whether nothing was ever acknowledged in a group of `voters` of which `new` others have never had
/// an entry: those that may have one are no majority. Then a founder that lost power before it sent
/// anything may go on, whatever its log says, since there is nothing that it could have forgotten.
fn is_unused(voters: usize, new: usize) -> bool {
    voters.saturating_sub(new) < voters / 2 + 1
}

/// What an answer means for the coordinator that asked.
fn judge(me: &Introduction, reply: &HelloReply) -> Verdict {
    let Some(other) = &reply.me else {
        return Verdict::NotYet("an answer without a name".to_owned());
    };
    let (my_id, other_id) = (me.coordinator_id, other.coordinator_id);
    let says = format!("coordinator {other_id} says:");
    // Only what is committed takes a member out for good.
    let is_newer = reply.committed_next > me.membership_next;
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
    if other.membership_next > 0
        && reply.listed
        && reply.incarnation.is_empty()
        && !me.founded
        && !sabotage::is(Bug::WipedVotes)
    {
        return Verdict::Refused(format!(
            "{says} coordinator {my_id} is a member since before directories had names, and this \
             data directory has never held a log: it was wiped or is new; it must not vote under \
             this id, since it may have forgotten acknowledged writes; {WAY_OUT}"
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

#[cfg(test)]
mod tests {
    use super::{HelloReply, Introduction, Reached, Verdict, is_unused, judge, older};

    fn member(id: u64, membership_next: u64) -> Introduction {
        Introduction {
            coordinator_id: id,
            incarnation: format!("directory {id}"),
            starts: 2,
            founded: membership_next > 0,
            membership_next,
            next_index: 40,
            ..Introduction::default()
        }
    }

    /// Of coordinator 1, which knows the membership before index 5, about coordinator 2.
    fn reply() -> HelloReply {
        HelloReply {
            me: Some(member(1, 5)),
            listed: true,
            incarnation: "directory 2".to_owned(),
            reached: Reached::Caller.into(),
            committed_next: 5,
            ..HelloReply::default()
        }
    }

    fn is_refused(verdict: &Verdict, words: &str) -> bool {
        matches!(verdict, Verdict::Refused(why) if why.contains(words))
    }

    #[test]
    fn only_a_committed_membership_removes_a_coordinator() {
        let me = member(2, 5);
        assert_eq!(judge(&me, &reply()), Verdict::Vouched);
        // An entry that may be cut: the member that knows it says no more than "not yet".
        let begun = HelloReply { me: Some(member(1, 9)), listed: false, ..reply() };
        assert!(matches!(judge(&me, &begun), Verdict::NotYet(_)), "{:?}", judge(&me, &begun));
        let done = HelloReply { committed_next: 9, ..begun };
        assert!(is_refused(&judge(&me, &done), "it was removed"));
    }

    #[test]
    fn a_new_directory_of_a_member_without_a_recorded_incarnation_is_refused() {
        let nameless = HelloReply { incarnation: String::new(), ..reply() };
        assert_eq!(judge(&member(2, 5), &nameless), Verdict::Vouched);
        let wiped = Introduction { next_index: 0, ..member(2, 0) };
        assert!(is_refused(&judge(&wiped, &nameless), "pghc members replace"));
    }

    #[test]
    fn a_build_that_cannot_be_asked_vouches_only_for_who_has_a_log() {
        assert_eq!(older(true, 1), Verdict::Vouched);
        assert!(matches!(older(false, 1), Verdict::NotYet(_)));
    }

    #[test]
    fn a_group_is_unused_when_those_that_may_hold_an_entry_are_no_majority() {
        for voters in 1..=9_usize {
            for new in 0..voters {
                // Whoever is not new may have acknowledged, this coordinator too.
                let acknowledged = voters - new > voters / 2;
                assert_eq!(is_unused(voters, new), !acknowledged, "{new} of {voters}");
            }
        }
        assert!(!is_unused(3, 1) && is_unused(3, 2) && !is_unused(5, 2) && is_unused(5, 3));
    }
}
