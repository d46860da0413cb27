//! Lays frames out into segments and gathers them into groups. Pure: the flusher writes them.
//!
//! One flush makes one group durable. A group begins with a [`Kind::Mark`], which is true when
//! written, because the previous group's flush has ended by then.

use std::io;

use super::content::{Content, Place};
use super::frame::{At, Frame, HEAD_BYTES, Kind, encode, encode_head, frame_bytes};

/// Called once with the result of a flush.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Consecutive bytes of one segment.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) at: At,
    pub(super) bytes: Vec<u8>,
}

/// Bytes of one flush, and its callbacks.
#[derive(Default)]
pub(super) struct Group {
    /// In order; each but the first begins a segment.
    pub(super) chunks: Vec<Chunk>,
    pub(super) done: Vec<Done>,
    /// Segments below this number can be removed once the group, which holds the purge, is durable.
    pub(super) drop_below: Option<u64>,
    pub(super) bytes: usize,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.done.is_empty()
    }
}

/// End of the log, and the group that gathers there.
pub(super) struct Stage {
    session: u32,
    end: At,
    /// Whether the segment holds its first frame only.
    is_fresh: bool,
    segment_bytes: u64,
    pub(super) group: Group,
}

impl Stage {
    /// Creates a stage whose next group begins at `end`.
    pub(super) fn new(session: u32, end: At, segment_bytes: u64) -> Self {
        Self { session, end, is_fresh: false, segment_bytes, group: Group::default() }
    }

    /// Adds a frame to the group, in a new segment if the current one is full. `content` is the
    /// log's content before the frame.
    pub(super) fn push(
        &mut self,
        content: &Content,
        kind: Kind,
        number: u64,
        body: &[u8],
    ) -> Place {
        if self.group.chunks.is_empty() {
            self.group.chunks.push(Chunk { at: self.end, bytes: Vec::new() });
            self.write(Kind::Mark, 0, &[]);
        }
        let fits = self.end.offset + frame_bytes(body.len()) as u64 <= self.segment_bytes;
        if !fits && !self.is_fresh {
            self.begin_segment(content);
        }
        self.is_fresh = false;
        Place::new(self.write(kind, number, body), body.len())
    }

    /// Ends the group and begins the next.
    pub(super) fn take(&mut self) -> Group {
        std::mem::take(&mut self.group)
    }

    /// Returns the first frame of the next group, to be written ahead: see [`lone_frame`].
    ///
    /// # Panics
    /// If the next group already has frames, because the mark is among them.
    pub(super) fn mark(&self) -> Chunk {
        assert!(self.group.chunks.is_empty(), "the group already begins with its mark");
        lone_frame(self.session, self.end, Kind::Mark)
    }

    /// Returns the frame that ends a segment at `at`.
    pub(super) fn seal(&self, at: At) -> Chunk {
        lone_frame(self.session, at, Kind::Seal)
    }

    fn begin_segment(&mut self, content: &Content) {
        let number = self.end.segment + 1;
        let bytes = segment_start(number, self.session, content, self.end.offset);
        self.end = At { segment: number, offset: bytes.len() as u64 };
        self.group.bytes += bytes.len();
        self.group.chunks.push(Chunk { at: At { segment: number, offset: 0 }, bytes });
        self.is_fresh = true;
    }

    fn write(&mut self, kind: Kind, number: u64, body: &[u8]) -> At {
        let at = self.end;
        let chunk = self.group.chunks.last_mut().expect("push has begun a chunk");
        let before = chunk.bytes.len();
        encode(&mut chunk.bytes, at, Frame { kind, session: self.session, number, body });
        let written = chunk.bytes.len() - before;
        self.end.offset += written as u64;
        self.group.bytes += written;
        at
    }
}

/// Returns the bytes that every segment begins with.
pub(super) fn segment_start(
    number: u64,
    session: u32,
    content: &Content,
    previous_end: u64,
) -> Vec<u8> {
    let mut bytes = encode_head(number, session);
    let body = postcard::to_stdvec(&content.restated(previous_end))
        .expect("bounded byte strings always serialise");
    let at = At { segment: number, offset: HEAD_BYTES as u64 };
    let frame = Frame { kind: Kind::Restate, session, number: content.next(), body: &body };
    encode(&mut bytes, at, frame);
    bytes
}

/// Returns a frame without a body, outside any group.
pub(super) fn lone_frame(session: u32, at: At, kind: Kind) -> Chunk {
    let mut bytes = Vec::new();
    encode(&mut bytes, at, Frame { kind, session, number: 0, body: &[] });
    Chunk { at, bytes }
}
