//! Seam of `tests/fuzz`: decoders of peer messages and files, as functions that panic on a
//! violation.
//!
//! Not in release builds.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, Membership};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::consensus::codec::{decode, encode};
use super::consensus::type_config::{
    Entry, LogId, Member, Proposal, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
use super::replica::snapshots::Snapshots;

use super::log::fuzzing::Files;
pub use super::log::fuzzing::{log, log_seeds};

/// Checks that a decoded value encodes to bytes that decode to the same value.
fn survives<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(value) = decode::<T>(bytes) else { return };
    let again = encode(&value);
    let value_again = decode::<T>(&again).expect("encoded above");
    assert_eq!(format!("{value:?}"), format!("{value_again:?}"));
    assert_eq!(again, encode(&value_again));
}

/// Decodes every type that arrives from a peer or the log.
pub fn consensus(bytes: &[u8]) {
    survives::<AppendEntriesRequest<TypeConfig>>(bytes);
    survives::<VoteRequest<TypeConfig>>(bytes);
    survives::<TransferLeaderRequest<TypeConfig>>(bytes);
    survives::<(Vote, SnapshotMeta, u64)>(bytes);
    survives::<Entry>(bytes);
    survives::<LogId>(bytes);
    survives::<Vote>(bytes);
    survives::<VoteResponse<TypeConfig>>(bytes);
    survives::<SnapshotResponse<TypeConfig>>(bytes);
    survives::<StreamAppendResult<TypeConfig>>(bytes);
}

/// Returns messages and records of a healthy group.
///
/// # Panics
/// Never: the members are well-formed.
#[must_use]
pub fn consensus_seeds() -> Vec<Vec<u8>> {
    let leader = openraft::impls::leader_id_adv::LeaderId::new(3, 2);
    let log_id = |index| LogId::new(leader.to_committed(), index);
    let vote = Vote::new_committed(3, 2);
    let zone = |zone: &str| Member { zone: zone.to_owned(), ..Member::default() };
    let nodes: std::collections::BTreeMap<u64, Member> =
        [(1, zone("eu")), (2, zone("us")), (3, zone("ap"))].into();
    let voters = vec![nodes.keys().copied().collect()];
    let membership = Membership::new(voters, nodes).expect("three voters, all known");
    let normal = |index: u64| {
        Entry::new(log_id(index), EntryPayload::Normal(Proposal(Bytes::from_static(b"batch"))))
    };
    let changed = Entry::new(log_id(8), EntryPayload::Membership(membership.clone()));
    let blank = Entry::new(log_id(7), EntryPayload::Blank);
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        last_membership: StoredMembership::new(Some(log_id(8)), membership),
    };
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(log_id(6)),
        entries: vec![blank.clone(), changed.clone(), normal(9)],
        leader_commit: Some(log_id(5)),
    };
    let seeds = [
        encode(&append),
        encode(&VoteRequest::<TypeConfig>::new(vote, Some(log_id(9)))),
        encode(&(vote, meta, 77_u64)),
        encode(&normal(9)),
        encode(&changed),
        encode(&blank),
        encode(&log_id(9)),
        encode(&vote),
    ];
    seeds.map(|bytes| bytes.to_vec()).into()
}

/// Loads a snapshot file. The first byte selects whether its checksum is corrected.
///
/// # Panics
/// If more is read than the file holds.
pub fn snapshot_file(bytes: &[u8]) {
    let Some((&fix, file)) = bytes.split_first() else { return };
    let mut file = file.to_vec();
    if fix % 2 == 1 && file.len() >= 16 {
        let sum = crc32fast::hash(&file[16..]);
        file[8..12].copy_from_slice(&sum.to_be_bytes());
    }
    let size = file.len();
    let disk = Files([("snapshot".to_owned(), file)].into());
    if let Ok(Some(snapshot)) = Snapshots::new(Arc::new(disk), Path::new("data")).load() {
        assert!(snapshot.snapshot.len() < size);
    }
}

/// Returns a well-formed snapshot file, without and with the corrected checksum.
///
/// # Panics
/// If the format has changed and this function has not.
#[must_use]
pub fn snapshot_file_seeds() -> Vec<Vec<u8>> {
    let meta = encode(&SnapshotMeta::default());
    let length = u32::try_from(meta.len()).unwrap_or_default().to_be_bytes();
    let body = [&meta[..], b"state"].concat();
    let sum = crc32fast::hash(&body).to_be_bytes();
    let file = [&b"pghcsnp1"[..], &sum, &length, &body].concat();
    let disk = Files([("snapshot".to_owned(), file.clone())].into());
    let read = Snapshots::new(Arc::new(disk), Path::new("data")).load();
    assert!(read.is_ok_and(|snapshot| snapshot.is_some()), "a good file to start from");
    [0, 1].map(|fix| [&[fix], &file[..]].concat()).into()
}
