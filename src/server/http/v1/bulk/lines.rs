//! The lines of a bulk write: a body cut at its line ends, each line checked.
//!
//! Invariant: every line in gives exactly one [`Line`] out, in order; what ends the reading early
//! gives one more, and nothing after it is read. At most one line is buffered beside a frame, and what is
//! buffered has its share of the room of all requests.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use pghc_api::error::ErrorCode;
use pghc_api::id::IdempotencyKey;
use pghc_api::limits::{BATCH_BYTES_MAX, BATCH_WRITES_MAX};
use tokio::time::{Duration, Instant, timeout_at};

use crate::http::body::{broken, payload_of, too_large, too_late};
use crate::http::response::ApiError;
use crate::http::server::limits::Limits;
use crate::http::server::memory_budget::{MemoryBudget, Share};
use crate::zone::NewWrite;

/// A line: a write, or why it is none.
pub(crate) type Line = Result<NewWrite, ApiError>;

/// Reads a body line by line.
pub(crate) struct Lines {
    body: Body,
    key: Option<IdempotencyKey>,
    /// Bytes that have arrived and have no room yet.
    arrived: Option<Bytes>,
    /// Bytes that have arrived and are not cut into lines yet.
    buffer: BytesMut,
    room: Arc<MemoryBudget>,
    /// The room of what is in the buffer, and of what was cut off it for the next chunk.
    share: Share,
    cut_share: Share,
    /// How much of the buffer holds no line end.
    searched: usize,
    /// Whether the rest of the current line is dropped, since it was answered as too long.
    skipping: bool,
    /// Number of the next line, from 0.
    number: usize,
    bytes_left: usize,
    line_bytes: usize,
    limits: (usize, Duration),
    /// Since when nothing has arrived while something should have.
    silent_since: Instant,
    read_by: Instant,
    ended: bool,
    /// The refusal that ended the reading early; the last line of the answer.
    last_word: Option<ApiError>,
}

/// The next part of the body.
enum Arrival {
    Data(Bytes),
    End,
    Nothing,
    Failed(ApiError),
}

impl Lines {
    pub(crate) fn new(
        body: Body,
        key: Option<IdempotencyKey>,
        limits: &Limits,
        room: Arc<MemoryBudget>,
    ) -> Self {
        let now = Instant::now();
        Self {
            body,
            key,
            arrived: None,
            buffer: BytesMut::new(),
            room,
            share: Share::default(),
            cut_share: Share::default(),
            searched: 0,
            skipping: false,
            number: 0,
            bytes_left: limits.bulk_bytes,
            line_bytes: limits.body_bytes,
            limits: (limits.bulk_bytes, limits.body_read),
            silent_since: now,
            read_by: now + limits.bulk_read,
            ended: false,
            last_word: None,
        }
    }

    /// Whether there is nothing more to read or to say.
    pub(crate) fn ended(&self) -> bool {
        self.ended && self.last_word.is_none()
    }

    /// Whether more may arrive.
    pub(crate) fn reading(&self) -> bool {
        !self.ended
    }

    /// Ends the reading; `last_word` is the last line.
    pub(crate) fn end_with(&mut self, last_word: ApiError) {
        self.ended = true;
        self.arrived = None;
        self.last_word = Some(last_word);
    }

    /// Starts to count the client's silence anew, after a time in which it was we who were slow.
    pub(crate) fn restart_silence(&mut self) {
        self.silent_since = Instant::now();
    }

    /// Reads what has arrived, up to a batch, with its share of the room; waits only while there is nothing
    /// at all. Empty at the end. May be dropped while it waits: nothing is lost.
    ///
    /// `silence_counts` says whether the client owes us the next line, and not we it an answer.
    pub(crate) async fn next_chunk(&mut self, silence_counts: bool) -> (Vec<Line>, Share) {
        let chunk = self.chunk(silence_counts).await;
        (chunk, std::mem::take(&mut self.cut_share))
    }

    async fn chunk(&mut self, silence_counts: bool) -> Vec<Line> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        loop {
            while chunk.len() < BATCH_WRITES_MAX && bytes < BATCH_BYTES_MAX {
                let Some(line) = self.cut() else { break };
                bytes +=
                    line.as_ref().map_or(0, |line| line.payload.as_ref().map_or(0, Bytes::len));
                chunk.push(line);
            }
            if chunk.len() == BATCH_WRITES_MAX || bytes >= BATCH_BYTES_MAX {
                return chunk;
            }
            if let Some(data) = self.arrived.take() {
                let bytes = data.len();
                if let Ok(share) = self.room.body(bytes) {
                    self.take_in(&data, share);
                    continue;
                }
                self.arrived = Some(data);
                if !chunk.is_empty() {
                    return chunk;
                }
                self.make_room(bytes).await;
                continue;
            }
            if self.ended {
                chunk.extend(self.last_word.take().map(Err));
                return chunk;
            }
            let arrival = if chunk.is_empty() {
                self.wait(silence_counts).await
            } else {
                self.body.frame().now_or_never().map_or(Arrival::Nothing, Self::sort)
            };
            match arrival {
                Arrival::Data(data) => self.arrived = Some(data),
                Arrival::End => self.end(),
                Arrival::Failed(refusal) => self.end_with(refusal),
                Arrival::Nothing => return chunk,
            }
        }
    }

    /// Waits for room for what has arrived, as long as a client may be silent.
    async fn make_room(&mut self, bytes: usize) {
        let until = (Instant::now() + self.limits.1).min(self.read_by);
        let room = Arc::clone(&self.room);
        match timeout_at(until, room.body_in_time(bytes)).await {
            Ok(share) => {
                let data = self.arrived.take().unwrap_or_default();
                self.take_in(&data, share);
            }
            Err(_) => {
                self.arrived = None;
                self.end_with(ApiError::new(
                    ErrorCode::Busy,
                    "no room came in time; the lines before this answer stand as answered",
                ));
            }
        }
    }

    /// Waits for the next frame; bounded by silence and by the time for the whole body.
    async fn wait(&mut self, silence_counts: bool) -> Arrival {
        let silent_until = self.silent_since + self.limits.1;
        let until = if silence_counts { silent_until.min(self.read_by) } else { self.read_by };
        match timeout_at(until, self.body.frame()).await {
            Ok(frame) => Self::sort(frame),
            Err(_) => Arrival::Failed(too_late(
                "no more lines arrived in time; the lines before this answer stand as answered",
            )),
        }
    }

    fn sort(frame: Option<Result<hyper::body::Frame<Bytes>, axum::Error>>) -> Arrival {
        match frame {
            None => Arrival::End,
            Some(Err(_)) => Arrival::Failed(broken()),
            Some(Ok(frame)) => frame.into_data().map_or(Arrival::Data(Bytes::new()), Arrival::Data),
        }
    }

    fn take_in(&mut self, data: &Bytes, share: Share) {
        self.restart_silence();
        if data.len() > self.bytes_left {
            return self.end_with(too_large("body", self.limits.0));
        }
        self.bytes_left -= data.len();
        self.share.add(share);
        self.buffer.extend_from_slice(data);
    }

    /// Takes a last line without a line end for a line.
    fn end(&mut self) {
        self.ended = true;
        if !self.buffer.is_empty() && !self.skipping {
            self.buffer.extend_from_slice(b"\n");
        }
    }

    /// Cuts the next whole line off the buffer.
    fn cut(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.buffer.len();
                if self.searched <= self.line_bytes && !self.skipping {
                    return None;
                }
                self.buffer.clear();
                self.share = Share::default();
                self.searched = 0;
                return (!std::mem::replace(&mut self.skipping, true)).then(|| self.too_long());
            };
            let line = self.buffer.split_to(end + 1).freeze();
            let share = self.share.split(end + 1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            self.cut_share.add(share);
            if end > self.line_bytes {
                return Some(self.too_long());
            }
            let key = self.key.as_ref().map(|key| key.line(self.number));
            self.number += 1;
            return Some(payload_of(&line.slice(..end)).map(|payload| NewWrite { key, payload }));
        }
    }

    fn too_long(&mut self) -> Line {
        self.number += 1;
        Err(too_large("line", self.line_bytes))
    }
}
