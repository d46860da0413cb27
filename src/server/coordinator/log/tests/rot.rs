//! Damage to durable bytes is found and reported.

use super::mem_disk::{Image, MemDisk};
use super::model::{Call, Model, Run, calls};
use crate::coordinator::log::OpenError;
use crate::coordinator::log::recover::{Recovered, recover, segment_name};
use crate::coordinator::log::tests::{open, try_open};
use crate::coordinator::log::watermark;

fn recovered(image: &Image) -> Recovered {
    recover(&MemDisk::of(image.clone()), std::path::Path::new("/mem")).unwrap()
}

/// Returns where the frames of each segment end: up to the newest mark in the last one.
fn durable(image: &mut Image) -> Vec<(String, usize)> {
    let recovered = recovered(image);
    let marked = recovered.marked.expect("the log has a mark");
    let ends = recovered.segments.iter().map(|segment| {
        let name = segment_name(segment.number);
        if segment.number == marked.segment {
            return (name, usize::try_from(marked.offset).unwrap());
        }
        // Behind the end are the seal of 24 bytes and the file's old content.
        let next = image.names[&segment_name(segment.number + 1)];
        let previous_end = &image.nodes[&next][32 + 24..];
        let (previous_end, _) = postcard::take_from_bytes::<usize>(previous_end).unwrap();
        (name, previous_end)
    });
    ends.collect()
}

fn written(calls: &[Call]) -> Run {
    let mut run = Run::new();
    calls.iter().for_each(|call| run.call(call));
    run.wait();
    run
}

proptest::proptest! {
    #![proptest_config(super::cases(6))]

    /// Without a close, as after a kill of the process.
    #[test]
    fn flipped_durable_bit_is_found(calls in calls(24), bit in 0_usize..8) {
        let run = written(&calls);
        // The wait ends before the mark is written; a close waits for the flusher.
        let disk = run.disk.clone();
        drop(run);
        let mut image = disk.image();
        for (name, end) in durable(&mut image) {
            for at in 0..end {
                image.file(&name)[at] ^= 1 << bit;
                let opened = try_open(&MemDisk::of(image.clone()));
                let Err(OpenError::Damaged { file, offset, .. }) = opened else {
                    panic!("byte {at} of {name}: {opened:?}");
                };
                let is_near = file.ends_with(&name) && offset <= at as u64;
                assert!(is_near || offset == 0 || at < 200, "{at} {file:?} {offset}");
                image.file(&name)[at] ^= 1 << bit;
            }
        }
    }

    /// The oldest segment may hold only content that the next one restates. If the only segment is
    /// missing, there is no log, which its owner must notice.
    #[test]
    fn missing_segment_is_found_unless_lossless(calls in calls(40)) {
        let run = written(&calls);
        let (disk, model) = (run.disk.clone(), run.history.last().cloned());
        drop(run);
        let image = disk.image();
        let segments = recovered(&image).segments;
        for segment in segments.iter().filter(|_| segments.len() > 1) {
            let mut image = image.clone();
            image.names.remove(&segment_name(segment.number));
            match try_open(&MemDisk::of(image)) {
                Ok(log) => assert_eq!(Some(Model::of(&log)), model),
                Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{error}"),
            }
        }
    }
}

/// Returns what a log of `calls` leaves after a kill or a close; its content; and an image from
/// halfway.
fn left(calls: &[Call], is_killed: bool) -> (Image, Model, Image) {
    let mut run = Run::new();
    let (before, after) = calls.split_at(calls.len() / 2);
    before.iter().for_each(|call| run.call(call));
    run.wait();
    let halfway = run.disk.image();
    after.iter().for_each(|call| run.call(call));
    run.wait();
    let (disk, model) =
        (run.disk.clone(), run.history.last().cloned().expect("it begins with one"));
    let killed = disk.image();
    drop(run);
    (if is_killed { killed } else { disk.image() }, model, halfway)
}

/// Fails unless the log is refused as damaged, or has its content. Returns whether it is refused.
#[track_caller]
fn is_refused(image: &Image, model: &Model, how: &str) -> bool {
    match try_open(&MemDisk::of(image.clone())) {
        Ok(log) => assert_eq!(&Model::of(&log), model, "{how}: the content differs"),
        Err(OpenError::Damaged { .. }) => return true,
        Err(error) => panic!("{how}: {error}"),
    }
    false
}

proptest::proptest! {
    #![proptest_config(super::cases(16))]

    #[test]
    fn cut_or_blanked_bytes_are_found_unless_lossless(
        calls in calls(24), is_killed in proptest::bool::ANY,
    ) {
        let (image, model, _) = left(&calls, is_killed);
        let mut refused = 0;
        for (name, node) in image.names.clone() {
            let bytes = image.nodes.get(&node).cloned().unwrap_or_default();
            // Frames begin at multiples of 8, so every boundary is among these.
            for at in (0..bytes.len()).step_by(8) {
                let mut cut = image.clone();
                cut.file(&name).truncate(at);
                refused += usize::from(is_refused(&cut, &model, &format!("{name} cut at {at}")));
            }
            for at in (0..bytes.len()).step_by(512) {
                let mut blank = image.clone();
                let to = bytes.len().min(at + 512);
                blank.file(&name)[at..to].fill(0);
                refused += usize::from(is_refused(&blank, &model, &format!("{name} blank at {at}")));
            }
        }
        assert!(refused > 0);
    }

    #[test]
    fn swapped_or_old_segments_are_found_unless_lossless(
        calls in calls(60), is_killed in proptest::bool::ANY,
    ) {
        let (image, model, halfway) = left(&calls, is_killed);
        // The watermark stays: without it, only the coordinator's identity knows of the log.
        let names = image.names.keys().filter(|name| *name != watermark::NAME);
        let names: Vec<String> = names.cloned().collect();
        for one in &names {
            for other in &names {
                let mut swapped = image.clone();
                swapped.names.insert(one.clone(), image.names[other]);
                swapped.names.insert(other.clone(), image.names[one]);
                is_refused(&swapped, &model, &format!("{one} for {other}"));
            }
            if let Some(node) = halfway.names.get(one) {
                let mut old = image.clone();
                *old.file(one) = halfway.nodes.get(node).cloned().unwrap_or_default();
                is_refused(&old, &model, &format!("{one} of yesterday"));
            }
        }
    }
}

#[test]
fn torn_end_is_cut_while_rotten_end_is_refused() {
    let calls = [Call::Append { records: 1, bytes: 600 }, Call::Await];
    let run = written(&calls);
    let disk = run.disk.clone();
    drop(run);
    let image = disk.image();
    let marked = usize::try_from(recovered(&image).marked.unwrap().offset).unwrap();
    let name = segment_name(1);
    // The mark is gone, as in a power cut, and so is the end of the record before it.
    let mut torn = image.clone();
    torn.file(&name)[marked - 8..].fill(0);
    let error = try_open(&MemDisk::of(torn.clone())).unwrap_err().to_string();
    assert!(error.contains("although more of it was durable"), "{error}");
    // A power cut within that flush leaves no watermark of its end.
    torn.names.remove(watermark::NAME);
    assert_eq!(Model::of(&open(&MemDisk::of(torn))), Model::default());
    // The mark exists: the same damage is to durable bytes.
    let mut rotten = image;
    rotten.file(&name)[marked - 8..marked].fill(0xff);
    let error = try_open(&MemDisk::of(rotten)).unwrap_err().to_string();
    assert!(error.starts_with("/mem/000000000001.log is damaged at byte "), "{error}");
    assert!(error.contains("keep this coordinator stopped"), "{error}");
}

#[test]
fn newer_format_is_refused_unchanged() {
    let disk = MemDisk::default();
    drop(open(&disk));
    let mut image = disk.image();
    let head = image.file(&segment_name(1));
    head[8] = 9;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..12]);
    hasher.update(&head[16..32]);
    head[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    let disk = MemDisk::of(image);
    let error = try_open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 9, .. }), "{error}");
    assert!(disk.trace().is_empty(), "nothing was touched");
}
