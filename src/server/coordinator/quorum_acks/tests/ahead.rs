//! Tests of a driver ahead of openraft, and of openraft catching up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, Membership};

use crate::coordinator::consensus::type_config::{Entry, LogId, Member, Proposal, SnapshotMeta};
use crate::coordinator::replica::driver::SequencerDriver;

pub(crate) const LONG: Duration = Duration::from_secs(60);

fn entry(term: u64, index: u64, payload: EntryPayload<Proposal, u64, Member>) -> Entry {
    let leader = openraft::impls::leader_id_adv::LeaderId::new(term, 1).to_committed();
    Entry::new(LogId::new(leader, index), payload)
}

pub(crate) fn blank(term: u64, index: u64) -> Entry {
    entry(term, index, EntryPayload::Blank)
}

fn members(term: u64, index: u64, sets: &[&[u64]]) -> Entry {
    let ids = sets.iter().flat_map(|set| set.iter().copied());
    let nodes: BTreeMap<u64, Member> = ids.map(|id| (id, Member::default())).collect();
    let sets = sets.iter().map(|set| set.iter().copied().collect()).collect();
    let membership = Membership::new(sets, nodes).expect("voters are members");
    entry(term, index, EntryPayload::Membership(membership))
}

/// Returns a driver of three voters, sequenced up to index 1.
pub(crate) fn driver() -> Arc<SequencerDriver> {
    let cluster = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
    let driver = SequencerDriver::new(cluster, 1 << 20);
    driver.advance(members(0, 0, &[&[1, 2, 3]])).expect("committed");
    driver.advance(blank(1, 1)).expect("committed");
    Arc::new(driver)
}

pub(crate) fn next(driver: &SequencerDriver) -> u64 {
    *driver.next_index().borrow()
}

#[test]
fn openraft_confirms_entries_sequenced_early() {
    let driver = driver();
    assert_eq!(driver.advance_early(blank(1, 3)).expect("fine"), None, "2 is missing");
    assert_eq!(driver.advance_early(blank(1, 2)).expect("fine"), Some(0));
    assert_eq!(driver.advance_early(blank(1, 3)).expect("fine"), Some(0));
    assert_eq!(next(&driver), 4);
    for entry in [blank(1, 2), blank(1, 3), blank(1, 4)] {
        driver.advance(entry).expect("the same");
    }
    assert_eq!(next(&driver), 5);
}

#[test]
fn conflicting_commit_stops_the_coordinator() {
    let driver = driver();
    driver.advance_early(blank(1, 2)).expect("fine");
    let error = driver.advance(blank(2, 2)).expect_err("a fork");
    assert!(error.to_string().contains("is committed in its place"), "{error}");
}

#[test]
fn acks_are_not_counted_during_joint_consensus() {
    let driver = driver();
    let voters = |driver: &SequencerDriver| driver.majority_for_next().map(|(_, it)| it.to_vec());
    assert_eq!(voters(&driver), Some(vec![1, 2, 3]));
    driver.advance(members(1, 2, &[&[1, 2, 3], &[1, 2, 4]])).expect("committed");
    assert_eq!(voters(&driver), None);
    driver.advance(members(1, 3, &[&[1, 2, 4]])).expect("committed");
    assert_eq!(voters(&driver), Some(vec![1, 2, 4]));
}

#[tokio::test]
async fn snapshot_waits_for_openraft_while_counting_pauses() {
    let driver = driver();
    driver.advance_early(blank(1, 2)).expect("fine");
    assert!(driver.snapshot().is_none(), "openraft does not know the newest entry");
    let waiting = driver.pause_for_snapshot(LONG);
    let catching_up = async {
        tokio::task::yield_now().await;
        assert_eq!(driver.advance_early(blank(1, 3)).expect("fine"), None, "held up");
        driver.advance(blank(1, 2)).expect("the same");
    };
    let (is_caught_up, ()) = tokio::join!(waiting, catching_up);
    assert!(is_caught_up);
    let taking = async {
        tokio::task::yield_now().await;
        driver.snapshot().expect("in step").0.last_log_id.map(|last| last.index)
    };
    let ((), last) = tokio::join!(driver.resume_after_snapshot(LONG), taking);
    assert_eq!(last, Some(2));
    assert_eq!(driver.advance_early(blank(1, 3)).expect("fine"), Some(0), "it goes on");
}

#[test]
fn older_snapshot_keeps_entries_sequenced_early() {
    let (ahead, behind) = (driver(), driver());
    behind.advance(blank(1, 2)).expect("committed");
    let (meta, state) = behind.snapshot().expect("in step");
    for index in 2..=4 {
        ahead.advance_early(blank(1, index)).expect("fine");
    }
    ahead.restore(&meta, &state.encode()).expect("an older one");
    assert_eq!(next(&ahead), 5);
    ahead.advance(blank(1, 3)).expect("openraft goes on behind the snapshot");
    let other = SnapshotMeta { last_log_id: Some(blank(2, 4).log_id), ..meta };
    ahead.restore(&other, &state.encode()).expect_err("a fork");
}
