//! Bytes of the log: segment heads and frames. Pure; the only definition of the on-disk format.
//!
//! A segment is a head of [`HEAD_BYTES`], one [`Kind::Restate`] frame, and further frames without a
//! gap. All numbers are little-endian.
//!
//! | head | bytes | | frame | bytes |
//! |---|---|---|---|---|
//! | `pghc-log` | 8 | | CRC-32 | 4 |
//! | format version | 1 | | length of the body | 4 |
//! | zero | 3 | | session | 4 |
//! | CRC-32 | 4 | | kind | 1 |
//! | segment number | 8 | | zero | 3 |
//! | session | 8 | | number | 8 |
//! | | | | body, then zeros up to a multiple of 8 | |
//!
//! A frame's checksum also covers its segment number and its offset, so that old bytes of a
//! recycled file are never taken for frames. The session counts the openings of the log: frames
//! left behind a torn one have an older session than the frames written over it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Size of a segment's head.
pub(super) const HEAD_BYTES: usize = 32;
/// Size of a frame without its body.
pub(super) const FRAME_BYTES: usize = 24;
/// The version that this program writes, and the only one that it reads.
pub(super) const VERSION: u8 = 1;

const MAGIC: &[u8; 8] = b"pghc-log";

/// Position of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First of every segment: a [`Restated`]; `number` is the next record's index.
    Restate = 1,
    /// A record; `number` is its index.
    Record = 2,
    /// The next record's index is `number`: records from there on are dropped.
    Truncate = 3,
    /// Records up to index `number` are purged; the body is the caller's mark.
    Purge = 4,
    /// The vote is the body.
    Vote = 5,
    /// The commit index is the body.
    Committed = 6,
    /// Everything before this frame was durable before it was written.
    Mark = 7,
    /// The log was opened: a new session begins.
    Open = 8,
    /// The segment ends here and the next one is durable.
    Seal = 9,
}

impl Kind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        const KINDS: [Kind; 9] = [
            Kind::Restate,
            Kind::Record,
            Kind::Truncate,
            Kind::Purge,
            Kind::Vote,
            Kind::Committed,
            Kind::Mark,
            Kind::Open,
            Kind::Seal,
        ];
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame with a correct checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) session: u32,
    pub(super) number: u64,
    pub(super) body: &'a [u8],
}

/// State repeated at the start of a segment, so that earlier segments can be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restated {
    /// End of the previous segment's frames; 0 in the first segment.
    pub(super) previous_end: u64,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
}

/// Why a segment's head is unusable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// Not completely written, or damaged.
    Unreadable,
    /// Written by another version of the program.
    Version(u8),
}

/// Returns the size of a frame with a body of `body_bytes`.
pub(super) fn frame_bytes(body_bytes: usize) -> usize {
    FRAME_BYTES + body_bytes.next_multiple_of(8)
}

/// Appends a frame that will stand at `at`.
pub(super) fn encode(out: &mut Vec<u8>, at: At, frame: Frame<'_>) {
    let start = out.len();
    let length = u32::try_from(frame.body.len()).expect("bodies are at most BODY_BYTES_MAX");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&frame.session.to_le_bytes());
    out.extend_from_slice(&[frame.kind as u8, 0, 0, 0]);
    out.extend_from_slice(&frame.number.to_le_bytes());
    out.extend_from_slice(frame.body);
    out.resize(start + frame_bytes(frame.body.len()), 0);
    let sum = checksum(at, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Reads the frame at the start of `bytes`, located at `at`; `None` if the frame is cut or damaged.
/// Later bytes are ignored.
pub(super) fn decode(bytes: &[u8], at: At) -> Option<Frame<'_>> {
    let body_bytes = u32_at(bytes, 4)? as usize;
    let bytes = bytes.get(..frame_bytes(body_bytes))?;
    if u32_at(bytes, 0)? != checksum(at, &bytes[4..]) {
        return None;
    }
    Some(Frame {
        kind: Kind::from_byte(bytes[12])?,
        session: u32_at(bytes, 8)?,
        number: u64_at(bytes, 16)?,
        body: &bytes[FRAME_BYTES..FRAME_BYTES + body_bytes],
    })
}

/// Whether a [`Kind::Mark`] stands anywhere from `from` on.
///
/// Distinguishes a torn tail from a rotten one. Framing is lost behind a bad frame, but every frame
/// begins at a multiple of 8 and its checksum covers its place.
pub(super) fn holds_mark(bytes: &[u8], segment: u64, from: usize) -> bool {
    (from.next_multiple_of(8)..bytes.len().saturating_sub(FRAME_BYTES - 1)).step_by(8).any(
        |offset| {
            let candidate = &bytes[offset..offset + FRAME_BYTES];
            let at = At { segment, offset: offset as u64 };
            candidate[12] == Kind::Mark as u8
                && candidate[4..8] == [0; 4]
                && decode(candidate, at).is_some()
        },
    )
}

/// Writes the head of segment `number`.
pub(super) fn encode_head(number: u64, session: u32) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&[VERSION, 0, 0, 0]);
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&number.to_le_bytes());
    head.extend_from_slice(&u64::from(session).to_le_bytes());
    let sum = head_checksum(&head);
    head[12..16].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Reads the head of segment `number`; returns its session.
///
/// Magic, version and checksum keep their places in every later version.
pub(super) fn decode_head(bytes: &[u8], number: u64) -> Result<u32, BadHead> {
    let head = bytes.get(..HEAD_BYTES).ok_or(BadHead::Unreadable)?;
    if &head[..8] != MAGIC || u32_at(head, 12) != Some(head_checksum(head)) {
        return Err(BadHead::Unreadable);
    }
    if head[8] != VERSION {
        return Err(BadHead::Version(head[8]));
    }
    if u64_at(head, 16) != Some(number) {
        return Err(BadHead::Unreadable);
    }
    u64_at(head, 24).and_then(|session| session.try_into().ok()).ok_or(BadHead::Unreadable)
}

fn head_checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..12]);
    hasher.update(&head[16..HEAD_BYTES]);
    hasher.finalize()
}

fn checksum(at: At, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.segment.to_le_bytes());
    hasher.update(&at.offset.to_le_bytes());
    hasher.update(frame);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{At, BadHead, Frame, Kind, decode, decode_head, encode, encode_head, holds_mark};

    const AT: At = At { segment: 7, offset: 64 };

    fn bytes(kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, AT, Frame { kind, session: 3, number: 42, body });
        out
    }

    /// Disks hold this format: these bytes change only together with `VERSION`. The checksums come
    /// from Python's `zlib.crc32`.
    #[test]
    fn frame_and_head_bytes_are_pinned() {
        let frame = bytes(Kind::Record, b"ab");
        assert_eq!(frame[4..], *b"\x02\0\0\0\x03\0\0\0\x02\0\0\0\x2a\0\0\0\0\0\0\0ab\0\0\0\0\0\0");
        assert_eq!(u32::from_le_bytes(*frame.first_chunk().unwrap()), 0x144453e6);
        let head = encode_head(7, 3);
        assert_eq!(head[..12], *b"pghc-log\x01\0\0\0");
        assert_eq!(head[16..], *b"\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        assert_eq!(u32::from_le_bytes(*head[12..].first_chunk().unwrap()), 0x6d1e2dfc);
    }

    #[test]
    fn frame_decodes_only_at_its_own_place() {
        let frame = bytes(Kind::Record, b"body");
        let read = decode(&frame, AT).unwrap();
        assert_eq!((read.kind, read.session, read.number), (Kind::Record, 3, 42));
        assert_eq!(read.body, b"body");
        assert!(decode(&frame, At { segment: 8, ..AT }).is_none());
        assert!(decode(&frame, At { offset: 72, ..AT }).is_none());
        assert!(decode(&frame[..frame.len() - 1], AT).is_none());
        assert!(decode(&[0; 64], AT).is_none(), "blank space is no frame");
    }

    #[test]
    fn flipped_bit_of_frame_or_head_is_found() {
        let (frame, head) = (bytes(Kind::Vote, b"vote!"), encode_head(7, 3));
        for bit in 0..frame.len() * 8 {
            let mut frame = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&frame, AT).is_none(), "bit {bit}");
        }
        for bit in 0..head.len() * 8 {
            let mut head = head.clone();
            head[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_head(&head, 7), Err(BadHead::Unreadable), "bit {bit}");
        }
    }

    #[test]
    fn mark_is_found_without_framing() {
        let mut rest = vec![0xff; 64];
        rest.extend(bytes(Kind::Mark, b""));
        assert!(holds_mark(&rest, 7, 3));
        assert!(holds_mark(&rest, 7, 64));
        assert!(!holds_mark(&rest, 7, 65));
        assert!(!holds_mark(&rest, 8, 0));
    }
}
