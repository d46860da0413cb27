//! Tests of the snapshot file: whole or refused, and never half after a power cut.

use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::vote::RaftLeaderId as _;

use crate::coordinator::log::tests::crash::power_cuts;
use crate::coordinator::log::tests::mem_disk::{Image, MemDisk};
use crate::coordinator::replica::snapshots::{FILE, LogId, SnapshotMeta, Snapshots, UNREADABLE};

fn on(disk: &MemDisk) -> Snapshots {
    Snapshots::new(Arc::new(disk.clone()), Path::new("/mem"))
}

fn upto(index: u64) -> SnapshotMeta {
    let leader = openraft::impls::leader_id_adv::LeaderId::new(1, 1);
    SnapshotMeta { last_log_id: Some(LogId::new(leader, index)), ..SnapshotMeta::default() }
}

/// Returns the newest index and state; `None` without a snapshot.
fn held(snapshots: &Snapshots) -> io::Result<Option<(u64, bytes::Bytes)>> {
    let snapshot = snapshots.load()?;
    Ok(snapshot.map(|it| (it.meta.last_log_id.expect("it has one").index, it.snapshot)))
}

#[test]
fn damaged_snapshot_is_set_aside_beside_a_whole_log() {
    let disk = MemDisk::default();
    let snapshots = on(&disk);
    snapshots.check(None).expect("neither is there");
    let error = snapshots.check(Some(3)).expect_err("entries up to 3 are nowhere");
    assert!(error.to_string().contains("only reaches nothing"), "{error}");
    snapshots.save(&upto(5), b"state").expect("saved");
    snapshots.check(Some(5)).expect("they meet");
    let error = snapshots.check(Some(6)).expect_err("entry 6 is nowhere");
    assert!(error.to_string().contains("members replace"), "{error}");
    let mut image = disk.image();
    image.file(FILE)[20] ^= 1;
    let disk = MemDisk::of(image);
    let snapshots = on(&disk);
    let error = snapshots.check(Some(5)).expect_err("damaged");
    assert!(error.to_string().contains("/mem/snapshot is damaged"), "{error}");
    assert!(disk.trace().is_empty(), "nothing was changed");
    snapshots.check(None).expect("the log has everything");
    let names = disk.image().names;
    assert!(!names.contains_key(FILE) && names.contains_key(UNREADABLE));
}

#[test]
fn flipped_or_cut_snapshot_is_found() {
    let disk = MemDisk::default();
    let snapshots = on(&disk);
    assert!(held(&snapshots).expect("no file is fine").is_none());
    for (index, state) in [(3, &b"old"[..]), (4, b"newer")] {
        snapshots.save(&upto(index), state).expect("saved");
        assert_eq!(held(&snapshots).expect("readable"), Some((index, state.into())));
    }
    let whole = disk.image();
    let bytes = whole.clone().file(FILE).len();
    for bit in 0..bytes * 8 {
        let mut image = whole.clone();
        image.file(FILE)[bit / 8] ^= 1 << (bit % 8);
        assert!(held(&on(&MemDisk::of(image))).is_err(), "bit {bit}");
        let mut image = whole.clone();
        image.file(FILE).truncate(bit / 8);
        assert!(held(&on(&MemDisk::of(image))).is_err(), "cut at {}", bit / 8);
    }
}

/// Tries every prefix of a save, every subset of unsynced operations and torn last writes; then the
/// same again from each of those leftovers.
#[test]
fn power_cut_leaves_the_old_or_the_new_snapshot() {
    let state = |index: u64| index.to_be_bytes().repeat(300);
    let save = |image: &Image, index: u64| {
        let disk = MemDisk::of(image.clone());
        on(&disk).save(&upto(index), &state(index)).expect("the disk works");
        disk
    };
    let mut states = 0;
    let mut check = |base: &Image, index: u64, next: &mut Vec<Image>| {
        let trace = save(base, index).trace();
        let before = held(&on(&MemDisk::of(base.clone()))).expect("whole");
        for point in 0..=trace.len() {
            power_cuts(base, &trace, point, |image| {
                states += 1;
                let found = held(&on(&MemDisk::of(image.clone()))).expect("whole");
                let is_new = found == Some((index, state(index).into()));
                assert!(is_new || found == before, "after {point} of {}", trace.len());
                assert!(is_new || point < trace.len(), "it was reported as durable");
                next.push(image);
            });
        }
    };
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    check(&Image::default(), 1, &mut once);
    for image in &once {
        check(image, 2, &mut twice);
    }
    for image in twice.iter().step_by(twice.len() / 20 + 1) {
        check(image, 3, &mut Vec::new());
    }
    println!("{states} states");
    assert!(states > 1000);
}
