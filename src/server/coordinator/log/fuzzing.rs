//! Seam of `tests/fuzz`: recovery of a log directory with arbitrary bytes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::frame::{At, FRAME_BYTES, Frame, HEAD_BYTES, Kind, decode, encode, encode_head};
use super::recover::{recover, segment_name};

/// Read-only files in memory.
pub(in crate::coordinator) struct Files(pub(in crate::coordinator) BTreeMap<String, Vec<u8>>);

struct Content(Vec<u8>);

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Disk for Files {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn DiskFile>> {
        Err(read_only())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let bytes = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Content(bytes.clone())))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(read_only())
    }
}

impl DiskFile for Content {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let from = start..start.saturating_add(into.len());
        into.copy_from_slice(self.0.get(from).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync(&self) -> io::Result<()> {
        Err(read_only())
    }
}

/// Corrects checksums as far as frames can be followed, so that later bytes are tested.
fn repair(bytes: &mut [u8], segment: u64) {
    if let Some(head) = bytes.get_mut(..HEAD_BYTES) {
        let session = u32::from_le_bytes([head[24], head[25], head[26], head[27]]);
        head.copy_from_slice(&encode_head(segment, session));
    }
    let mut at = HEAD_BYTES;
    while let Some(header) = bytes.get(at..at + FRAME_BYTES) {
        let number = |from: usize| {
            header[from..from + 4].try_into().map(u32::from_le_bytes).unwrap_or_default()
        };
        let length = number(4) as usize;
        let Some(kind) = Kind::from_byte(header[12]) else { return };
        let session = number(8);
        let index = u64::from(number(16)) | u64::from(number(20)) << 32;
        let Some(body) = bytes.get(at + FRAME_BYTES..at + FRAME_BYTES + length) else { return };
        let body = body.to_vec();
        let mut frame = Vec::new();
        let place = At { segment, offset: at as u64 };
        encode(&mut frame, place, Frame { kind, session, number: index, body: &body });
        let Some(there) = bytes.get_mut(at..at + frame.len()) else { return };
        there.copy_from_slice(&frame);
        at += frame.len();
    }
}

/// Recovers one or two segments. The first byte selects corrected checksums and a first segment
/// other than number 1; two bytes give the first segment's length.
///
/// # Panics
/// If recovery panics, depends on more than the bytes, or returns an unreadable record.
pub fn log(input: &[u8]) {
    let Some((&[flags, low, high], rest)) = input.split_first_chunk::<3>() else { return };
    let split = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let first = if flags & 2 == 0 { 1 } else { 7 };
    let (one, two) = rest.split_at(split);
    let mut files = BTreeMap::new();
    for (bytes, number) in [(one, first), (two, first + 1)] {
        let mut bytes = bytes.to_vec();
        if flags & 1 == 1 {
            repair(&mut bytes, number);
        }
        if number == first || !bytes.is_empty() {
            files.insert(segment_name(number), bytes);
        }
    }
    let disk = Files(files);
    let recovered = recover(&disk, Path::new("log"));
    let again = recover(&disk, Path::new("log"));
    let (Ok(found), Ok(again)) = (&recovered, &again) else {
        assert_eq!(recovered.is_ok(), again.is_ok());
        return;
    };
    let range = found.content.first()..found.content.next();
    assert_eq!(range, again.content.first()..again.content.next());
    for index in range {
        let place = found.content.place(index).expect("it is in the range");
        let bytes = &disk.0[&segment_name(place.segment)];
        let frame = usize::try_from(place.at().offset).ok().and_then(|at| bytes.get(at..));
        let frame = frame.and_then(|bytes| decode(bytes, place.at())).expect("a readable frame");
        assert_eq!((frame.kind, frame.number), (Kind::Record, index));
    }
}

/// Returns a log of one segment and a log of two, with every kind of frame.
///
/// # Panics
/// Never: the frames are well-formed.
#[must_use]
pub fn log_seeds() -> Vec<Vec<u8>> {
    let restated = |previous_end| super::frame::Restated {
        previous_end,
        purged: None,
        vote: None,
        committed: None,
    };
    let start = |segment, next, restated: &super::frame::Restated| {
        let mut out = encode_head(segment, 3);
        let body = postcard::to_stdvec(restated).expect("plain values");
        let at = At { segment, offset: HEAD_BYTES as u64 };
        encode(&mut out, at, Frame { kind: Kind::Restate, session: 3, number: next, body: &body });
        out
    };
    let push = |out: &mut Vec<u8>, segment, kind, number, body: &[u8]| {
        let at = At { segment, offset: out.len() as u64 };
        encode(out, at, Frame { kind, session: 3, number, body });
    };
    let mut one = start(1, 0, &restated(0));
    for (kind, number, body) in [
        (Kind::Vote, 0, &b"vote"[..]),
        (Kind::Record, 0, b"zero"),
        (Kind::Record, 1, b"one"),
        (Kind::Mark, 0, b""),
        (Kind::Record, 2, b"two"),
        (Kind::Truncate, 2, b""),
        (Kind::Record, 2, b"two anew"),
        (Kind::Committed, 0, b"2"),
        (Kind::Purge, 0, b"purged"),
        (Kind::Mark, 0, b""),
    ] {
        push(&mut one, 1, kind, number, body);
    }
    let alone = one.clone();
    let end = one.len() as u64;
    push(&mut one, 1, Kind::Seal, 0, b"");
    let mut follows = restated(end);
    follows.purged = Some((0, bytes::Bytes::from_static(b"purged")));
    follows.vote = Some(bytes::Bytes::from_static(b"vote"));
    follows.committed = Some(bytes::Bytes::from_static(b"2"));
    let mut two = start(2, 3, &follows);
    push(&mut two, 2, Kind::Record, 3, b"three");
    push(&mut two, 2, Kind::Mark, 0, b"");
    let input = |flags: u8, one: &[u8], two: &[u8]| {
        let split = u16::try_from(one.len()).expect("a short segment").to_le_bytes();
        [&[flags], &split[..], one, two].concat()
    };
    for (one, two) in [(&alone[..], &b""[..]), (&one, &two)] {
        let mut files = BTreeMap::from([(segment_name(1), one.to_vec())]);
        if !two.is_empty() {
            files.insert(segment_name(2), two.to_vec());
        }
        assert!(recover(&Files(files), Path::new("log")).is_ok(), "a good log to start from");
    }
    vec![input(0, &alone, b""), input(1, &alone, b""), input(0, &one, &two), input(1, &one, &two)]
}
