//! Decision table of admission: evaluates one peer's reply. Pure.

use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::v1::check_admission_reply::Callback;
use pghc_runtime::rpc::v1::{CheckAdmissionReply, NodeInfo};

use super::identity::REPLACE_HINT;

/// Decision from one peer's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdmissionDecision {
    /// The peer knows this incarnation as a member.
    Accept,
    /// The peer knows of no group.
    Uninitialized,
    /// Ask again later.
    Retry(String),
    /// This coordinator must not take part.
    Reject(String),
}

/// Whether a group of `voters` has never acknowledged an entry, given `new` peers without any
/// entry.
///
/// The remaining voters are no majority then, so nothing was acknowledged. A founder that lost
/// power before its first message may continue, whatever its log holds.
pub(crate) fn is_unused(voters: usize, new: usize) -> bool {
    voters.saturating_sub(new) < voters / 2 + 1
}

/// Evaluates a peer's reply. `listed_next` is the index after the newest entry of the local log that
/// lists this coordinator as a member, if there is such an entry.
pub(crate) fn evaluate(
    me: &NodeInfo,
    listed_next: Option<u64>,
    reply: &CheckAdmissionReply,
) -> AdmissionDecision {
    let Some(other) = &reply.me else {
        return AdmissionDecision::Retry("the reply carries no coordinator".to_owned());
    };
    let (my_id, other_id) = (me.coordinator_id, other.coordinator_id);
    let says = format!("coordinator {other_id} says:");
    if mutation::is_active(Mutant::WipedVotes) && other.membership_next > 0 {
        return AdmissionDecision::Accept;
    }
    if reply.listed && reply.incarnation != me.incarnation {
        if other.membership_next < me.membership_next {
            return AdmissionDecision::Retry(format!("coordinator {other_id} is behind"));
        }
        return AdmissionDecision::Reject(format!(
            "{says} coordinator {my_id} is a member with another data directory than this one, which \
             was wiped or exchanged; it must not vote under this id, since it may have forgotten \
             acknowledged writes; {REPLACE_HINT}"
        ));
    }
    if other.membership_next > 0 && !reply.listed {
        return evaluate_unlisted(me, listed_next, reply, &says);
    }
    if let Some(lost) = older_than_seen(me, reply) {
        return AdmissionDecision::Reject(format!(
            "{says} {lost}; this data directory is a copy or an old backup, and must not vote again, \
             since it has forgotten acknowledged writes or votes; {REPLACE_HINT}"
        ));
    }
    match reply.callback() {
        Callback::Another => AdmissionDecision::Reject(format!(
            "{says} another process answers as coordinator {my_id} at {}; this data directory is a \
             copy of its; stop this one for good, or {REPLACE_HINT}",
            reply.url
        )),
        Callback::Nobody => AdmissionDecision::Retry(format!(
            "coordinator {other_id} cannot connect back to this one at {}",
            reply.url
        )),
        Callback::Caller if other.membership_next > 0 => AdmissionDecision::Accept,
        Callback::Caller if other.founded => AdmissionDecision::Retry("it is starting".to_owned()),
        Callback::Caller if other.founders != me.founders => AdmissionDecision::Retry(format!(
            "coordinator {other_id} would found another group: {}, not {}",
            other.founders, me.founders
        )),
        Callback::Caller => AdmissionDecision::Uninitialized,
    }
}

/// Evaluates a reply of a peer whose membership does not list this coordinator.
fn evaluate_unlisted(
    me: &NodeInfo,
    listed_next: Option<u64>,
    reply: &CheckAdmissionReply,
    says: &str,
) -> AdmissionDecision {
    let my_id = me.coordinator_id;
    // Only a committed entry removes a member for good.
    let is_newer = reply.committed_next > me.membership_next;
    // A coordinator that is being added, and its peer, may hold an old part of the log only. A
    // removed coordinator may hold the very entry that removed it.
    if listed_next.is_some_and(|listed_next| reply.committed_next > listed_next) {
        return AdmissionDecision::Reject(format!(
            "{says} coordinator {my_id} is no longer a member; it was removed; nothing is lost, \
             its data directory may be deleted"
        ));
    }
    if is_newer && !me.founded && !me.founders.is_empty() {
        return AdmissionDecision::Reject(format!(
            "{says} there is a group already and coordinator {my_id} is not in it; start with \
             --join and add it: pghc members add {my_id}={}={}",
            me.zone, me.url
        ));
    }
    AdmissionDecision::Retry(match is_newer && me.founded {
        true => format!(
            "{says} coordinator {my_id} is not a member, as far as it knows; if it was removed, or \
             its adding was given up, its data directory may be deleted; to have it again, add one \
             with a new id and an empty --data"
        ),
        false => format!("{says} coordinator {my_id} is not a member yet"),
    })
}

/// Returns what this directory has lost, compared with the peer's record.
fn older_than_seen(me: &NodeInfo, reply: &CheckAdmissionReply) -> Option<String> {
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
    use super::{AdmissionDecision, Callback, CheckAdmissionReply, NodeInfo, evaluate, is_unused};

    fn member(id: u64, membership_next: u64) -> NodeInfo {
        NodeInfo {
            coordinator_id: id,
            incarnation: format!("directory {id}"),
            starts: 2,
            founded: membership_next > 0,
            membership_next,
            next_index: 40,
            ..NodeInfo::default()
        }
    }

    /// Reply of coordinator 1 about coordinator 2; coordinator 1 knows the membership before index
    /// 5.
    fn reply() -> CheckAdmissionReply {
        CheckAdmissionReply {
            me: Some(member(1, 5)),
            listed: true,
            incarnation: "directory 2".to_owned(),
            callback: Callback::Caller.into(),
            committed_next: 5,
            ..CheckAdmissionReply::default()
        }
    }

    fn is_refused(verdict: &AdmissionDecision, words: &str) -> bool {
        matches!(verdict, AdmissionDecision::Reject(why) if why.contains(words))
    }

    #[test]
    fn only_committed_membership_removes_a_coordinator() {
        let me = member(2, 5);
        assert_eq!(evaluate(&me, Some(5), &reply()), AdmissionDecision::Accept);
        // The entry may still be cut: the peer answers "not yet".
        let begun = CheckAdmissionReply { me: Some(member(1, 9)), listed: false, ..reply() };
        assert!(
            matches!(evaluate(&me, Some(5), &begun), AdmissionDecision::Retry(_)),
            "{:?}",
            evaluate(&me, Some(5), &begun)
        );
        let done = CheckAdmissionReply { committed_next: 9, ..begun };
        assert!(is_refused(&evaluate(&me, Some(5), &done), "it was removed"));
    }

    /// Coordinator 2 received an old part of the log before it lost power, and asks a peer that is
    /// behind.
    #[test]
    fn coordinator_being_added_is_not_taken_as_removed() {
        let me = member(7, 5);
        let behind = CheckAdmissionReply {
            me: Some(member(2, 9)),
            listed: false,
            committed_next: 9,
            ..reply()
        };
        assert!(matches!(evaluate(&me, None, &behind), AdmissionDecision::Retry(_)));
        assert!(is_refused(&evaluate(&me, Some(5), &behind), "it was removed"));
        // Its newest entry is the one that removed it.
        let removed = NodeInfo { membership_next: 9, ..me };
        assert!(is_refused(&evaluate(&removed, Some(5), &behind), "it was removed"));
        assert!(matches!(evaluate(&removed, Some(9), &behind), AdmissionDecision::Retry(_)));
        // A founder outside the group gets advice.
        let stranger = NodeInfo { founders: "1,2,7".to_owned(), next_index: 0, ..member(7, 0) };
        assert!(is_refused(&evaluate(&stranger, None, &behind), "--join"));
    }

    #[test]
    fn group_is_unused_when_entry_holders_are_a_minority() {
        for voters in 1..=9_usize {
            for new in 0..voters {
                // Any coordinator with an entry may have acknowledged, this one too.
                let acknowledged = voters - new > voters / 2;
                assert_eq!(is_unused(voters, new), !acknowledged, "{new} of {voters}");
            }
        }
        assert!(!is_unused(3, 1) && is_unused(3, 2) && !is_unused(5, 2) && is_unused(5, 3));
    }
}
