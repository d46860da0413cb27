//! Reads a directory back into the log's content, and distinguishes a torn tail from a rotten one.
//!
//! A crash leaves at most one half-written flush, of which nothing was acknowledged: such a tail is
//! cut. A bad frame with a [`Kind::Mark`] anywhere behind it was durable: the log is refused. The
//! newest flush before a crash has no mark behind it; the [`watermark`] tells whether it was
//! durable, as far as a power cut kept that file. This module changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::content::Content;
use super::disk::{Disk, DiskFile};
use super::error::OpenError;
use super::frame::{
    At, BadHead, HEAD_BYTES, Kind, Restated, decode, decode_head, frame_bytes, holds_mark,
};
use super::watermark;

const SEGMENT: &str = ".log";
const SPARE: &str = ".spare";

/// Returns the file name of segment `number`.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:012}{SEGMENT}")
}

/// Returns the file name of a recycled segment.
pub(super) fn spare_name(number: u64) -> String {
    format!("{number:012}{SPARE}")
}

/// A segment that is part of the log.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Size of the file; its frames may end earlier.
    pub(super) bytes: u64,
}

/// Content of a directory.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) content: Content,
    /// Session of the last write; 0 in an empty directory.
    pub(super) session: u32,
    /// Ascending, without a gap; empty in an empty directory.
    pub(super) segments: Vec<Segment>,
    /// End of the log.
    pub(super) end: Option<At>,
    /// Newest mark: everything before it is known to be durable, nothing behind it.
    pub(super) marked: Option<At>,
    /// Files to remove: torn segments, and purged ones whose removal was lost in a crash.
    pub(super) litter: Vec<String>,
    /// Files to recycle.
    pub(super) spares: Vec<String>,
    /// Whether the last segment states that another follows.
    is_sealed: bool,
}

/// Position where reading stopped.
struct Bad {
    at: At,
    what: &'static str,
    /// A crash cannot have left it.
    is_certain: bool,
}

/// Reads the whole log. `dir` is for messages only.
///
/// # Errors
/// See [`OpenError`].
pub(super) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, OpenError> {
    let io = |source| OpenError::Io { dir: dir.to_owned(), source };
    let mut recovered = Recovered::default();
    let numbers = numbers(disk, &mut recovered).map_err(io)?;
    let mut bad = None;
    for &number in &numbers {
        let file = disk.open(&segment_name(number)).map_err(io)?;
        let bytes = read_all(file.as_ref()).map_err(io)?;
        if bad.is_none() {
            bad = recovered.take_segment(number, &bytes, dir)?;
        }
        if bad.is_none() {
            recovered.segments.push(Segment { number, file, bytes: bytes.len() as u64 });
            continue;
        }
        // A later segment alone proves nothing, since one flush may have begun it; a mark in it
        // does.
        if let Some(bad) =
            bad.as_ref().filter(|bad| bad.is_certain || holds_mark(&bytes, number, 0))
        {
            return Err(damaged(dir, bad.at, bad.what));
        }
        recovered.litter.push(segment_name(number));
    }
    recovered.check(dir, numbers.first().copied(), bad)?;
    let start = At { segment: numbers.first().copied().unwrap_or(1), offset: 0 };
    let end = recovered.end.unwrap_or(start);
    if watermark::read(disk).map_err(io)?.is_some_and(|durable| durable > end) {
        return Err(damaged(dir, end, "the log ends here although more of it was durable"));
    }
    Ok(recovered)
}

/// Lists the segment numbers that lead up to the newest without a gap. Segments before a gap are
/// litter of a purge; [`Recovered::check`] finds missing ones.
fn numbers(disk: &dyn Disk, recovered: &mut Recovered) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for name in disk.list()? {
        if let Some(number) = name.strip_suffix(SEGMENT).and_then(|stem| stem.parse().ok()) {
            numbers.push(number);
        } else if name.ends_with(SPARE) {
            recovered.spares.push(name);
        }
    }
    numbers.sort_unstable();
    let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
    let run = numbers.split_off(gap.map_or(0, |at| at + 1));
    recovered.litter.extend(numbers.into_iter().map(segment_name));
    Ok(run)
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    // Checked before the allocation: no segment of a log is so large.
    let size = u32::try_from(file.size()?).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "a segment is larger than 4 GiB, which none can be",
        )
    })?;
    let mut bytes = vec![0; size as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn damaged(dir: &Path, at: At, what: &'static str) -> OpenError {
    OpenError::Damaged { file: dir.join(segment_name(at.segment)), offset: at.offset, what }
}

impl Recovered {
    /// Takes the steps recorded in segment `number`; returns the position of an unclean end.
    fn take_segment(
        &mut self,
        number: u64,
        bytes: &[u8],
        dir: &Path,
    ) -> Result<Option<Bad>, OpenError> {
        let start = At { segment: number, offset: 0 };
        let bad = |at, what| Ok(Some(Bad { at, what, is_certain: false }));
        let session = match decode_head(bytes, number) {
            Ok(session) => session,
            Err(BadHead::Unreadable) => return bad(start, "the head of the segment is unreadable"),
            Err(BadHead::Version(found)) => {
                return Err(OpenError::Version { file: dir.join(segment_name(number)), found });
            }
        };
        let mut at = At { offset: HEAD_BYTES as u64, ..start };
        let Some((next, restated, taken)) = restated(bytes, at) else {
            return bad(at, "the segment does not state its predecessor");
        };
        if let Some(end) = self.end {
            if session != self.session {
                return bad(start, "the segment is of a session that had ended before it");
            }
            if restated.previous_end > end.offset {
                return bad(end, "a record is unreadable");
            }
            // The commit index is written lazily, so this may be its first occurrence.
            self.content.committed.clone_from(&restated.committed);
            let follows = restated == self.content.restated(end.offset);
            if !follows || next != self.content.next() {
                return bad(at, "the segment does not follow the one before it");
            }
        } else {
            self.session = session;
            self.content = Content::adopt(next, restated);
        }
        at.offset += taken;
        Ok(self.walk(at, bytes))
    }

    /// Takes the steps from `at` on until a frame is unreadable.
    fn walk(&mut self, mut at: At, bytes: &[u8]) -> Option<Bad> {
        let bad = |at, what| Some(Bad { at, what, is_certain: true });
        self.is_sealed = false;
        loop {
            self.end = Some(at);
            let offset = usize::try_from(at.offset).expect("it was indexed before");
            let frame = bytes.get(offset..).and_then(|rest| decode(rest, at));
            let frame = frame.filter(|frame| match frame.kind {
                Kind::Open => frame.session > self.session,
                _ => frame.session == self.session,
            });
            let Some(frame) = frame else {
                return holds_mark(bytes, at.segment, offset)
                    .then_some(at)
                    .and_then(|at| bad(at, "the frame is unreadable"));
            };
            match frame.kind {
                Kind::Seal => {
                    self.is_sealed = true;
                    return None;
                }
                Kind::Open => self.session = frame.session,
                Kind::Mark => self.marked = Some(at),
                _ => {}
            }
            if !self.content.apply(&frame, at) {
                return bad(at, "the frame does not follow the one before it");
            }
            at.offset += frame_bytes(frame.body.len()) as u64;
        }
    }

    /// Checks that no segment is missing before, between or behind. `oldest` is the lowest segment
    /// number that was read.
    fn check(&self, dir: &Path, oldest: Option<u64>, bad: Option<Bad>) -> Result<(), OpenError> {
        let start = At { segment: oldest.unwrap_or(1), offset: 0 };
        // Only the very first segment may be torn as the oldest one: earlier segments are removed
        // only after later ones are durable.
        if self.segments.is_empty()
            && (oldest.is_some_and(|oldest| oldest > 1) || !self.spares.is_empty())
        {
            let bad = bad.unwrap_or(Bad { at: start, what: "it is missing", is_certain: true });
            return Err(damaged(dir, bad.at, bad.what));
        }
        if self.content.lacks_records() {
            return Err(damaged(dir, start, "segments before this one are missing"));
        }
        match self.end {
            Some(end) if self.is_sealed => {
                Err(damaged(dir, end, "the segment that follows is missing or unreadable"))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the first frame of a segment: next index, content, and its size.
fn restated(bytes: &[u8], at: At) -> Option<(u64, Restated, u64)> {
    let frame = decode(bytes.get(HEAD_BYTES..)?, at).filter(|it| it.kind == Kind::Restate)?;
    let restated: Restated = postcard::from_bytes(frame.body).ok()?;
    // No record can follow the largest index; only a damaged log names it.
    let purged = restated.purged.as_ref().map_or(0, |(index, _)| *index);
    if frame.number.max(purged) == u64::MAX {
        return None;
    }
    Some((frame.number, restated, frame_bytes(frame.body.len()) as u64))
}
