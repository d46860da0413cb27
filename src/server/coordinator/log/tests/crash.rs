//! Power cuts: replays the disk trace up to every moment, with unsynced operations missing or torn,
//! and opens the log on the result.

use std::collections::BTreeSet;

use super::mem_disk::{Event, Image, MemDisk};
use super::model::{Model, Run, calls};
use crate::coordinator::log::tests::{open, record, waiter};
use crate::coordinator::log::watermark;

/// Unsynced operations of which every subset is tried.
const SUBSET_MAX: usize = 8;
const SECTOR_BYTES: usize = 512;

/// Returns the operations that a power cut after the first `point` events may undo. Watermark
/// writes are never synced while the log runs: the newest stands for all, since an older one claims
/// no more than is durable.
fn unsynced(notes: usize, trace: &[Event], point: usize) -> Vec<usize> {
    let (mut synced, mut is_dir_synced) = (BTreeSet::new(), false);
    let mut unsynced = Vec::new();
    for (at, event) in trace[..point].iter().enumerate().rev() {
        match event {
            Event::Sync { node } => {
                synced.insert(*node);
            }
            Event::SyncDir => is_dir_synced = true,
            Event::Write { node, .. } if !synced.contains(node) => {
                unsynced.push(at);
                if *node == notes {
                    synced.insert(notes);
                }
            }
            Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. }
                if !is_dir_synced =>
            {
                unsynced.push(at);
            }
            _ => {}
        }
    }
    unsynced.reverse();
    unsynced
}

/// Returns the watermark's file.
fn notes(base: &Image, trace: &[Event]) -> usize {
    let created = trace.iter().find_map(|event| match event {
        Event::Create { name, node } if name == watermark::NAME => Some(*node),
        _ => None,
    });
    created.or_else(|| base.names.get(watermark::NAME).copied()).unwrap_or(usize::MAX)
}

/// Returns the parts of a write that a power cut may leave.
fn torn(offset: usize, bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let sector = SECTOR_BYTES - offset % SECTOR_BYTES;
    let mut cuts = vec![1, sector, bytes.len() / 2, bytes.len().saturating_sub(1)];
    cuts.retain(|cut| (1..bytes.len()).contains(cut));
    cuts.sort_unstable();
    cuts.dedup();
    let start = cuts.iter().map(|cut| (offset, bytes[..*cut].to_vec()));
    let end = cuts.iter().map(|cut| (offset + cut, bytes[*cut..].to_vec()));
    start.chain(end).collect()
}

/// Calls `check` with every state that a power cut after the first `point` events may leave.
pub(in crate::coordinator) fn power_cuts(
    base: &Image,
    trace: &[Event],
    point: usize,
    mut check: impl FnMut(Image),
) {
    let unsynced = unsynced(notes(base, trace), trace, point);
    let build = |dropped: &BTreeSet<usize>, last: Option<&Event>| {
        let mut image = base.clone();
        let kept = trace[..point].iter().enumerate().filter(|(at, _)| !dropped.contains(at));
        kept.for_each(|(_, event)| image.apply(event));
        last.into_iter().for_each(|event| image.apply(event));
        image
    };
    check(build(&unsynced.iter().copied().collect(), None));
    let tail = &unsynced[unsynced.len().saturating_sub(SUBSET_MAX)..];
    for subset in 0..1_usize << tail.len() {
        let dropped = tail.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1);
        check(build(&dropped.map(|(_, at)| *at).collect(), None));
    }
    if let Some((last, before)) = unsynced.split_last()
        && let Event::Write { node, offset, bytes } = &trace[*last]
    {
        for (offset, bytes) in torn(*offset, bytes) {
            let torn = Event::Write { node: *node, offset, bytes };
            check(build(&BTreeSet::from([*last]), Some(&torn)));
            check(build(&before.iter().chain([last]).copied().collect(), Some(&torn)));
        }
    }
}

/// Allowed content after a power cut: one of these, and a commit index that was given.
struct Allowed<'a> {
    run: &'a Run,
    acknowledged: usize,
}

impl Allowed<'_> {
    /// Opens the log on `disk`, checks it and returns its content.
    fn check(&self, disk: &MemDisk) -> Model {
        let log = open(disk);
        let found = Model::of(&log);
        let step = self.run.history.iter().rposition(|model| *model == found);
        let step = step.unwrap_or_else(|| panic!("this was never called: {found:?}"));
        assert!(step >= self.acknowledged, "lost: {step} < {}", self.acknowledged);
        if let Some(committed) = log.state().committed {
            let given = self.run.committed.iter().find(|(given, _)| *given == committed);
            let (_, before) = given.expect("it was given");
            assert!(*before <= step, "the commit index is ahead: {before} > {step}");
        }
        // A recovered log is writable, and torn bytes never come back.
        let (done, wait) = waiter();
        let next = found.next();
        log.append(vec![record(next, 40)], done).unwrap();
        wait().unwrap();
        drop(log);
        let log = open(disk);
        assert_eq!(log.state().last, Some(next), "a torn record came back");
        assert_eq!(log.read(next..next + 1, 1).unwrap(), [record(next, 40)]);
        found
    }
}

fn acknowledged(trace: &[Event]) -> usize {
    let steps = trace.iter().filter_map(|event| match event {
        Event::Acknowledged { steps } => Some(*steps),
        _ => None,
    });
    steps.max().unwrap_or(0)
}

/// Checks every power cut of `run`; for one in `nested` of them, every power cut of its recovery.
fn check_all(run: &Run, nested: usize) -> usize {
    let trace = run.disk.trace();
    let mut cuts = 0;
    for point in 0..=trace.len() {
        let allowed = Allowed { run, acknowledged: acknowledged(&trace[..point]) };
        power_cuts(&Image::default(), &trace, point, |image| {
            cuts += 1;
            if cuts % nested == 0 {
                let disk = MemDisk::of(image.clone());
                drop(open(&disk));
                let recovery = disk.trace();
                for point in 0..=recovery.len() {
                    power_cuts(&image, &recovery, point, |image| {
                        allowed.check(&MemDisk::of(image));
                    });
                }
            }
            allowed.check(&MemDisk::of(image));
        });
    }
    cuts
}

proptest::proptest! {
    #![proptest_config(super::cases(8))]

    #[test]
    fn power_cut_loses_nothing_acknowledged(calls in calls(24)) {
        let mut run = Run::new();
        calls.iter().for_each(|call| run.call(call));
        run.close();
        let cuts = check_all(&run, 101);
        println!("{cuts} power cuts over {} operations", run.disk.trace().len());
    }
}
