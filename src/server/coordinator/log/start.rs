//! Prepares a recovered directory for writing: cuts torn bytes, makes kept ones durable, begins a
//! session.
//!
//! Invariant: no frame follows a session's opening frame before that frame is durable, so that no
//! two sessions of one number leave frames.

use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::frame::{At, Kind};
use super::recover::{Recovered, Segment, segment_name};
use super::stage::{Chunk, lone_frame, segment_start};

/// Spare segments kept for reuse; further ones are removed.
pub(super) const SPARES_MAX: usize = 2;

/// Position of a new session's first write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) session: u32,
    pub(super) end: At,
}

/// Begins a session. On return every recovered frame is durable and marked as durable.
///
/// # Errors
/// Those of the disk. The directory can be recovered again.
pub(super) fn start(disk: &dyn Disk, recovered: &mut Recovered) -> io::Result<Start> {
    let kept = recovered.spares.len().min(SPARES_MAX);
    recovered.litter.extend(recovered.spares.drain(kept..));
    for name in recovered.litter.drain(..) {
        disk.remove(&name)?;
    }
    disk.sync_dir()?;
    let start = match recovered.end {
        Some(end) => resume(recovered, end)?,
        None => found(disk, recovered)?,
    };
    // Marked now: from here on, damage above is distinguished from a tear.
    let mark = lone_frame(start.session, start.end, Kind::Mark);
    let newest = recovered.segments.last_mut().expect("there is a segment by now");
    write(newest, &mark)?;
    Ok(start)
}

/// Begins the first segment.
fn found(disk: &dyn Disk, recovered: &mut Recovered) -> io::Result<Start> {
    let (number, session) = (1, 1);
    let file = disk.create(&segment_name(number))?;
    let bytes = segment_start(number, session, &recovered.content, 0);
    let end = At { segment: number, offset: bytes.len() as u64 };
    let mut segment = Segment { number, file, bytes: 0 };
    write(&mut segment, &Chunk { at: At { segment: number, offset: 0 }, bytes })?;
    segment.file.sync()?;
    recovered.segments.push(segment);
    disk.sync_dir()?;
    Ok(Start { session, end })
}

/// Continues at the end of the previous session.
fn resume(recovered: &mut Recovered, end: At) -> io::Result<Start> {
    let session = recovered.session.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
    // Frames behind the newest mark may come from pages that an earlier process's failed sync
    // marked clean. They are written again, so that the sync below covers them.
    let marked = recovered.marked;
    for segment in &mut recovered.segments {
        let from = match marked {
            Some(marked) if segment.number < marked.segment => continue,
            Some(marked) if segment.number == marked.segment => marked.offset,
            _ => 0,
        };
        let to = if segment.number == end.segment { end.offset } else { segment.bytes };
        let at = At { segment: segment.number, offset: from };
        let mut bytes = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        segment.file.read_at(&mut bytes, from)?;
        write(segment, &Chunk { at, bytes })?;
        if segment.number == end.segment {
            write(segment, &lone_frame(session, end, Kind::Open))?;
        }
        segment.file.sync()?;
    }
    let opening = lone_frame(session, end, Kind::Open).bytes.len() as u64;
    Ok(Start { session, end: At { offset: end.offset + opening, ..end } })
}

fn write(segment: &mut Segment, chunk: &Chunk) -> io::Result<()> {
    segment.file.write_at(&chunk.bytes, chunk.at.offset)?;
    segment.bytes = segment.bytes.max(chunk.at.offset + chunk.bytes.len() as u64);
    Ok(())
}

/// Opens the kept spare files: name and size in bytes.
pub(super) fn spares(disk: &dyn Disk, names: &[String]) -> io::Result<Vec<(String, u64)>> {
    let size = |name: &String| Ok((name.clone(), Arc::clone(&disk.open(name)?).size()?));
    names.iter().map(size).collect()
}
