//! Turns the survivor's log into the log of a group of one.
//!
//! It appends a membership entry of a newer term behind all kept entries, with the survivor as the
//! only voter. After a start the survivor elects itself and commits the whole log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, Membership, Vote};

use super::error::RecoverError;
use super::plan::Plan;
use crate::coordinator::consensus::codec::encode;
use crate::coordinator::consensus::type_config::{Entry, LogId, Vote as RaftVote};
use crate::coordinator::log::{Log, Options, Record};

/// Distance of the new term from every known term. Coordinators without a directory may have seen
/// newer terms, one per election: this many take five days of continuous elections at the shortest
/// timeouts. Their entries are then older than the recovered group's.
pub const TERMS_BEYOND: u64 = 1 << 20;

/// Entry that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the entry that makes the survivor the only member.
    pub index: u64,
    /// Its term, [`TERMS_BEYOND`] above any that a survivor has seen.
    pub term: u64,
}

/// Appends the membership of one to the log of the survivor that `plan` keeps; durable on return.
/// The caller decides on the obstacles.
///
/// # Errors
/// [`RecoverError::Log`], or [`RecoverError::Write`]: the entry may exist then, and a repetition is
/// harmless.
pub fn write(plan: &Plan) -> Result<Recovered, RecoverError> {
    let keep = &plan.keep;
    let (id, term) = (keep.id, plan.term + TERMS_BEYOND);
    let index = keep.last_id.map_or(0, |last| last.index + 1);
    let leader = openraft::impls::leader_id_adv::LeaderId::new(term, id);
    let node = keep.nodes.get(&id).cloned().unwrap_or_default();
    let failed = |error| RecoverError::Write(keep.dir.clone(), error);
    let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]))
        .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
    let log_id = LogId::new(leader.to_committed(), index);
    let entry = Entry::new(log_id, EntryPayload::Membership(membership));
    let log = Log::open(&keep.dir.join("log"), Options::default()).map_err(RecoverError::Log)?;
    // A snapshot may be ahead of the log, which then continues behind it.
    let state = log.state();
    let next = state.last.or(state.purged.map(|(purged, _)| purged)).map_or(0, |last| last + 1);
    if next < index {
        let covered = encode(&keep.last_id.expect("an index above 0 is of an entry"));
        log.purge_to(index - 1, covered).map_err(failed)?;
    }
    let vote: RaftVote = Vote::new(term, id);
    log.append(vec![Record { index, body: encode(&entry) }], Box::new(drop)).map_err(failed)?;
    let (sender, done) = mpsc::sync_channel(1);
    let notify = Box::new(move |result| {
        let _ = sender.send(result);
    });
    // The vote is the later of the two, so it is durable only with the entry.
    log.set_vote(encode(&vote), notify).map_err(failed)?;
    let flushed = done.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()));
    flushed.map_err(failed)?;
    log.close().map_err(failed)?;
    Ok(Recovered { index, term })
}
