//! Tests of the log's public calls. `model` has random calls against a model, `crash` power cuts,
//! `rot` damage.

pub(in crate::coordinator) mod crash;
pub(in crate::coordinator) mod mem_disk;
mod model;
mod rot;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use self::mem_disk::MemDisk;
use crate::coordinator::log::{Done, Log, NOTE_BYTES_MAX, OpenError, Options, Record, State};

/// Small, so that every test crosses segments and reads from the disk.
const OPTIONS: Options = Options {
    segment_bytes: 4 << 10,
    grow_bytes: 4 << 10,
    cache_bytes: 1500,
    queue_bytes: 1 << 20,
};

/// Number of random cases. proptest prints the smallest failing input; the environment variable
/// `PROPTEST_RNG_SEED` repeats a run, `PROPTEST_CASES` lengthens it.
fn cases(cases: u32) -> proptest::test_runner::Config {
    let mut config = proptest::test_runner::Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config.failure_persistence = None;
    config.max_shrink_iters = 2000;
    config
}

fn try_open(disk: &MemDisk) -> Result<Log, OpenError> {
    Log::open_on(Arc::new(disk.clone()), Path::new("/mem"), OPTIONS)
}

fn open(disk: &MemDisk) -> Log {
    try_open(disk).unwrap()
}

/// Returns a callback, and a wait for its result.
fn waiter() -> (Done, impl FnOnce() -> io::Result<()>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done: Done = Box::new(move |result| sender.send(result).expect("the test waits"));
    (done, move || receiver.recv().expect("every callback is called"))
}

fn record(index: u64, bytes: usize) -> Record {
    let body = index.to_be_bytes().repeat(bytes / 8 + 1)[..bytes].to_vec().into();
    Record { index, body }
}

/// Appends one record and waits for it.
fn append(log: &Log, index: u64, bytes: usize) -> io::Result<()> {
    let (done, wait) = waiter();
    log.append(vec![record(index, bytes)], done)?;
    wait()
}

#[test]
fn records_are_readable_before_durable() {
    let disk = MemDisk::default();
    let log = open(&disk);
    disk.hold_syncs(true);
    let (done, wait) = waiter();
    log.append(vec![record(0, 5000), record(1, 5000)], done).unwrap();
    assert_eq!(log.read(0..9, 1).unwrap(), [record(0, 5000)]);
    assert_eq!(log.read(0..9, 10_000).unwrap(), [record(0, 5000), record(1, 5000)]);
    disk.hold_syncs(false);
    wait().unwrap();
}

#[test]
fn queued_appends_share_one_flush() {
    let disk = MemDisk::default();
    let log = open(&disk);
    append(&log, 0, 8).unwrap();
    let before = disk.syncs();
    disk.hold_syncs(true);
    let (done, wait) = waiter();
    log.append(vec![record(1, 8)], done).unwrap();
    disk.wait_for_syncs(before + 1);
    let waits: Vec<_> = (2..66)
        .map(|index| {
            let (done, wait) = waiter();
            log.append(vec![record(index, 8)], done).unwrap();
            wait
        })
        .collect();
    let (vote_done, vote_wait) = waiter();
    log.set_vote(Bytes::from_static(b"vote"), vote_done).unwrap();
    disk.hold_syncs(false);
    wait().unwrap();
    waits.into_iter().for_each(|wait| wait().unwrap());
    vote_wait().unwrap();
    assert_eq!(disk.syncs(), before + 2, "65 appends and a vote in two flushes");
}

#[test]
fn replaced_record_in_flight_is_read_as_new() {
    let disk = MemDisk::default();
    let log = open(&disk);
    let before = disk.syncs();
    disk.hold_syncs(true);
    let (reader, (sender, receiver)) = (log.clone(), mpsc::sync_channel(1));
    // On the flusher's thread: the first flush has ended, its records may have left the cache, and
    // the second is unwritten.
    let read = move |_| sender.send(reader.read(1..8, usize::MAX)).expect("the test waits");
    log.append((0..8).map(|index| record(index, 300)).collect(), Box::new(read)).unwrap();
    disk.wait_for_syncs(before + 1);
    log.truncate_after(Some(0)).unwrap();
    let replacing: Vec<_> =
        (1..8).map(|index| Record { index, ..record(100 + index, 300) }).collect();
    let (done, wait) = waiter();
    log.append(replacing.clone(), done).unwrap();
    disk.hold_syncs(false);
    assert_eq!(receiver.recv().unwrap().unwrap(), replacing);
    wait().unwrap();
    assert_eq!(log.read(1..8, usize::MAX).unwrap(), replacing);
}

/// Files are purged and recycled during the reads.
#[test]
fn reader_finds_its_record_or_nothing() {
    const RECORDS: u64 = 600;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), OPTIONS).unwrap();
    let (found, began) = ([const { AtomicU64::new(0) }; 2], std::time::Instant::now());
    std::thread::scope(|scope| {
        let readers = [0, 1].map(|reader| {
            let (log, found) = (log.clone(), &found[reader]);
            scope.spawn(move || {
                while log.state().last != Some(RECORDS - 1) {
                    let State { first: Some(first), last: Some(last), .. } = log.state() else {
                        continue;
                    };
                    let from = if reader == 0 { first } else { first.midpoint(last) };
                    for (read, index) in log.read(from..last + 1, 3000).unwrap().iter().zip(from..)
                    {
                        assert_eq!(*read, record(index, 700));
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        for index in 0..RECORDS {
            // The last index ends the readers: each has read by then.
            while index == RECORDS - 1
                && began.elapsed() < std::time::Duration::from_secs(60)
                && readers.iter().zip(&found).any(|(reader, found)| {
                    !reader.is_finished() && found.load(Ordering::Relaxed) == 0
                })
            {
                std::thread::yield_now();
            }
            append(&log, index, 700).unwrap();
            if index % 20 == 19 {
                log.purge_to(index - 10, Bytes::new()).unwrap();
            }
        }
    });
    assert!(found.iter().all(|it| it.load(Ordering::Relaxed) > 0), "nothing was ever read");
}

#[test]
fn full_queue_blocks_the_appender() {
    let disk = MemDisk::default();
    let options = Options { queue_bytes: 1, ..OPTIONS };
    let log = Log::open_on(Arc::new(disk.clone()), Path::new("/mem"), options).unwrap();
    disk.hold_syncs(true);
    let before = disk.syncs();
    let (first_done, first_wait) = waiter();
    log.append(vec![record(0, 8)], first_done).unwrap();
    disk.wait_for_syncs(before + 1);
    let (second_done, second_wait) = waiter();
    log.append(vec![record(1, 8)], second_done).unwrap();
    std::thread::scope(|scope| {
        let third = scope.spawn(|| append(&log, 2, 8));
        assert_eq!(log.state().last, Some(1), "the third is held");
        disk.hold_syncs(false);
        third.join().unwrap().unwrap();
    });
    first_wait().unwrap();
    second_wait().unwrap();
    assert_eq!(log.state().last, Some(2));
}

#[test]
fn failed_sync_is_final() {
    let disk = MemDisk::default();
    let log = open(&disk);
    append(&log, 0, 8).unwrap();
    disk.fail_sync_after(0);
    let error = append(&log, 1, 8).unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    let syncs = disk.syncs();
    append(&log, 2, 8).unwrap_err();
    log.set_vote(Bytes::new(), waiter().0).unwrap_err();
    log.set_committed(Bytes::new()).unwrap_err();
    log.truncate_after(None).unwrap_err();
    log.purge_to(0, Bytes::new()).unwrap_err();
    log.read(0..1, 1).unwrap_err();
    log.close().unwrap_err();
    assert_eq!(disk.syncs(), syncs, "nothing is synced a second time");
}

#[test]
fn unsynced_leftover_is_rewritten_at_open() {
    let disk = MemDisk::default();
    let log = open(&disk);
    append(&log, 0, 8).unwrap();
    disk.fail_sync_after(0);
    append(&log, 1, 8).unwrap_err();
    drop(log);
    let before = disk.trace().len();
    let log = open(&disk);
    assert_eq!(log.state().last, Some(1), "the kernel's memory still has it");
    let body = record(1, 8).body;
    let is_rewritten = disk.trace()[before..].iter().any(|event| match event {
        mem_disk::Event::Write { bytes, .. } => bytes.windows(8).any(|window| window == body),
        _ => false,
    });
    assert!(is_rewritten);
}

#[test]
fn purged_segments_are_recycled() {
    let disk = MemDisk::default();
    let log = open(&disk);
    for index in 0..60 {
        append(&log, index, 900).unwrap();
        if index % 10 == 9 {
            log.purge_to(index - 1, Bytes::from_static(b"mark")).unwrap();
        }
    }
    let (done, wait) = waiter();
    log.append(Vec::new(), done).unwrap();
    wait().unwrap();
    let names = disk.image().names;
    assert!(names.len() < 9, "{names:?}");
    let creations =
        disk.trace().iter().filter(|it| matches!(it, mem_disk::Event::Create { .. })).count();
    assert!(creations < 10, "{creations} files were created for {} segments", 60 / 4);
    assert_eq!(log.read(59..60, 1).unwrap(), [record(59, 900)]);
    log.close().unwrap();
    let log = open(&disk);
    assert_eq!(log.state().purged, Some((58, Bytes::from_static(b"mark"))));
    assert_eq!(log.read(0..60, usize::MAX).unwrap(), []);
    assert_eq!(log.read(59..60, 1).unwrap(), [record(59, 900)]);
}

#[test]
fn lock_excludes_a_second_process_until_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/log");
    let log = Log::open(&path, OPTIONS).unwrap();
    append(&log, 0, 5000).unwrap();
    assert!(matches!(Log::open(&path, OPTIONS), Err(OpenError::InUse { .. })));
    let other = log.clone();
    log.close().unwrap();
    append(&other, 1, 8).unwrap_err();
    // A child of another test may hold the lock for a moment.
    let opened = (0..100).find_map(|_| match Log::open(&path, OPTIONS) {
        Err(OpenError::InUse { .. }) => None,
        opened => Some(opened),
    });
    let log = opened.expect("let go").unwrap();
    assert_eq!(log.read(0..9, 1).unwrap(), [record(0, 5000)]);
}

#[test]
fn oversized_record_is_refused() {
    let log = open(&MemDisk::default());
    let note = Bytes::from(vec![0; NOTE_BYTES_MAX + 1]);
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(log.set_vote(note.clone(), waiter().0)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(log.set_committed(note.clone())), io::ErrorKind::InvalidInput);
    assert_eq!(kind(log.purge_to(0, note.clone())), io::ErrorKind::InvalidInput);
    log.purge_to(7, note.slice(1..)).unwrap();
    assert_eq!(kind(log.truncate_after(Some(6))), io::ErrorKind::InvalidInput);
    log.truncate_after(Some(7)).unwrap();
    append(&log, 8, 8).unwrap();
}

#[test]
#[should_panic(expected = "records are appended without a hole")]
fn append_with_a_hole_panics() {
    let _ = append(&open(&MemDisk::default()), 1, 8);
}
