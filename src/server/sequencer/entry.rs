//! Bytes of a batch and of the Raft entry that carries it. Entries of format 2 change the registry
//! of zones: see `zones.rs`.
//!
//! An API node encodes a batch once; the leader adds a header; the same bytes then travel to every
//! log and zone. Both layouts begin with a format byte, and numbers are big-endian. An unknown
//! format or kind is an error and never skipped: the reader stops.
//!
//! ```text
//! entry   format u8 = 1 | group u16 = 0 | proposed at i64 (us) | batch
//! batch   format u8 = 1 | session 16 bytes | sequence u64 | node: length u8, bytes | count u32 | writes
//! write   kind u8 = 0 | key: length u8 (0: none), bytes | payload: length u32 (2^32-1: none), bytes
//! ```

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pghc_api::id::NodeName;
use pghc_api::limits::BATCH_WRITES_MAX;
use pghc_api::time::Micros;

const FORMAT: u8 = 1;
pub(super) const GROUP: u16 = 0;
const KIND_RECORD: u8 = 0;
const NO_PAYLOAD: u32 = u32::MAX;
const ENTRY_HEADER_BYTES: usize = 1 + 2 + 8;

/// Identity of one run of one API node; a restart creates a new one.
pub type SessionId = [u8; 16];

/// Why this build cannot sequence the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Written by a newer pghc.
    #[error("{what} {got} is not known to this version of pghc; it was written by a newer one")]
    Unknown {
        /// Field: format, group, kind or act.
        what: &'static str,
        /// Value of the field.
        got: u16,
    },
    /// Damaged, or of another program.
    #[error("the batch is malformed: {0}")]
    Malformed(&'static str),
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Idempotency key, at most 255 bytes.
    pub key: Option<Bytes>,
    /// One JSON value, byte for byte as sent.
    pub payload: Option<Bytes>,
}

/// Writes of one API node that share an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The node's session.
    pub session: SessionId,
    /// Number of the batch in its session: from 1, never reused for other writes.
    pub sequence: u64,
    /// Node that accepted the writes.
    pub node: NodeName,
    /// 1 to [`BATCH_WRITES_MAX`] writes.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Encodes the batch.
    ///
    /// # Panics
    /// If it holds no or too many writes, or a key above 255 bytes: callers bound both.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(
            (1..=BATCH_WRITES_MAX).contains(&self.writes.len()),
            "a batch has 1 to 1000 writes"
        );
        let payload_bytes: usize = self.writes.iter().map(Write::encoded_len).sum();
        let mut out = BytesMut::with_capacity(payload_bytes + 96);
        out.put_u8(FORMAT);
        out.put_slice(&self.session);
        out.put_u64(self.sequence);
        put_short(&mut out, self.node.as_str().as_bytes());
        out.put_u32(u32::try_from(self.writes.len()).expect("at most 1000"));
        for write in &self.writes {
            write.encode(&mut out);
        }
        out.freeze()
    }

    /// Decodes a batch; payloads and keys share `bytes`' memory.
    ///
    /// # Errors
    /// If the bytes are not exactly one batch that this build reads.
    pub fn decode(bytes: Bytes) -> Result<Self, EntryError> {
        let mut input = Cursor { bytes: &bytes, at: 0 };
        let BatchHeader { session, sequence, node, count } = input.header()?;
        let mut writes = Vec::with_capacity(count);
        for _ in 0..count {
            let (key, payload) = input.write()?;
            let key = Some(key).filter(|key| !key.is_empty()).map(|key| bytes.slice(key));
            writes.push(Write { key, payload: payload.map(|payload| bytes.slice(payload)) });
        }
        input.end()?;
        Ok(Self { session, sequence, node, writes })
    }
}

/// Fields before the writes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// As in [`Batch`].
    pub session: SessionId,
    /// As in [`Batch`].
    pub sequence: u64,
    /// As in [`Batch`].
    pub node: NodeName,
    /// Number of writes.
    pub count: usize,
}

impl BatchHeader {
    /// Reads the header and validates the whole batch: on success [`Batch::decode`] succeeds too.
    ///
    /// # Errors
    /// As [`Batch::decode`].
    pub fn read(batch: &[u8]) -> Result<Self, EntryError> {
        let mut input = Cursor { bytes: batch, at: 0 };
        let header = input.header()?;
        for _ in 0..header.count {
            input.write()?;
        }
        input.end()?;
        Ok(header)
    }
}

/// Walks over a batch without copying or allocating.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn header(&mut self) -> Result<BatchHeader, EntryError> {
        let format = self.array::<1>()?[0];
        if format != FORMAT {
            return Err(EntryError::Unknown { what: "batch format", got: u16::from(format) });
        }
        let session = self.array()?;
        let sequence = u64::from_be_bytes(self.array()?);
        let node = self.short()?;
        let node = std::str::from_utf8(&self.bytes[node]).ok().and_then(|name| name.parse().ok());
        let node = node.ok_or(EntryError::Malformed("its node name is not allowed"))?;
        let count = u32::from_be_bytes(self.array()?) as usize;
        if !(1..=BATCH_WRITES_MAX).contains(&count) {
            return Err(EntryError::Malformed("it must hold 1 to 1000 writes"));
        }
        Ok(BatchHeader { session, sequence, node, count })
    }

    /// Returns the ranges of a write's key (empty: none) and payload.
    fn write(&mut self) -> Result<(Range<usize>, Option<Range<usize>>), EntryError> {
        let kind = self.array::<1>()?[0];
        if kind != KIND_RECORD {
            return Err(EntryError::Unknown { what: "write kind", got: u16::from(kind) });
        }
        let key = self.short()?;
        let payload = match u32::from_be_bytes(self.array()?) {
            NO_PAYLOAD => None,
            length => Some(self.next(length as usize)?),
        };
        Ok((key, payload))
    }

    fn end(&self) -> Result<(), EntryError> {
        let is_over = self.at == self.bytes.len();
        if is_over { Ok(()) } else { Err(EntryError::Malformed("bytes follow its last write")) }
    }

    fn short(&mut self) -> Result<Range<usize>, EntryError> {
        let length = self.array::<1>()?[0];
        self.next(usize::from(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EntryError> {
        let place = self.next(N)?;
        self.bytes[place].try_into().map_err(|_| EntryError::Malformed("it ends too early"))
    }

    fn next(&mut self, length: usize) -> Result<Range<usize>, EntryError> {
        let start = self.at;
        if self.bytes.len() - start < length {
            return Err(EntryError::Malformed("it ends too early"));
        }
        self.at = start + length;
        Ok(start..self.at)
    }
}

impl Write {
    fn encoded_len(&self) -> usize {
        6 + self.key.as_ref().map_or(0, Bytes::len) + self.payload.as_ref().map_or(0, Bytes::len)
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(KIND_RECORD);
        put_short(out, self.key.as_deref().unwrap_or_default());
        match &self.payload {
            None => out.put_u32(NO_PAYLOAD),
            Some(payload) => {
                out.put_u32(u32::try_from(payload.len()).expect("bodies are bounded below 4 GiB"));
                out.put_slice(payload);
            }
        }
    }
}

/// A Raft entry: a batch with the leader's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Leader's clock at the proposal. The commit time is the later of this and the head's time.
    pub proposed_at: Micros,
    /// An encoded [`Batch`].
    pub batch: Bytes,
}

impl Entry {
    /// Encodes the entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(ENTRY_HEADER_BYTES + self.batch.len());
        out.put_u8(FORMAT);
        out.put_u16(GROUP);
        out.put_i64(self.proposed_at.0);
        out.put_slice(&self.batch);
        out.freeze()
    }

    /// Decodes an entry; the batch shares `bytes`' memory.
    ///
    /// # Errors
    /// If this build does not know the header. The batch is not validated.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EntryError> {
        let mut header = take(&mut bytes, ENTRY_HEADER_BYTES)?;
        let format = header.get_u8();
        if format != FORMAT {
            return Err(EntryError::Unknown { what: "entry format", got: u16::from(format) });
        }
        let group = header.get_u16();
        if group != GROUP {
            return Err(EntryError::Unknown { what: "group", got: group });
        }
        Ok(Self { proposed_at: Micros(header.get_i64()), batch: bytes })
    }
}

pub(super) fn put_short(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u8(u8::try_from(bytes.len()).expect("names and keys are below 256 bytes"));
    out.put_slice(bytes);
}

pub(super) fn take_short(input: &mut Bytes) -> Result<Bytes, EntryError> {
    let length = take(input, 1)?[0];
    take(input, usize::from(length))
}

pub(super) fn take(input: &mut Bytes, length: usize) -> Result<Bytes, EntryError> {
    if input.len() < length {
        return Err(EntryError::Malformed("it ends too early"));
    }
    Ok(input.split_to(length))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pghc_api::time::Micros;
    use proptest::prelude::*;

    use super::{Batch, BatchHeader, Entry, EntryError, Write};

    fn sample() -> Batch {
        Batch {
            session: [7; 16],
            sequence: 2,
            node: "eu-1".parse().expect("a plain name"),
            writes: vec![
                Write { key: Some("k".into()), payload: Some("{}".into()) },
                Write { key: None, payload: None },
            ],
        }
    }

    #[test]
    fn batch_and_entry_bytes_are_pinned() {
        let batch = sample().encode();
        let hex: String = batch.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "01".to_owned()
            + "07070707070707070707070707070707"
            + "0000000000000002"
            + "0465752d31"
            + "00000002"
            + "00016b000000027b7d"
            + "0000ffffffff";
        assert_eq!(hex, expected);
        let entry = Entry { proposed_at: Micros(-2), batch }.encode();
        assert_eq!(&entry[..11], &[1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 254]);
    }

    #[test]
    fn newer_format_is_refused_by_name() {
        let mut bytes = sample().encode().to_vec();
        bytes[0] = 2;
        let error = Batch::decode(bytes.into()).expect_err("format 2");
        assert_eq!(error, EntryError::Unknown { what: "batch format", got: 2 });
        let mut entry =
            Entry { proposed_at: Micros(0), batch: sample().encode() }.encode().to_vec();
        entry[2] = 9;
        let error = Entry::decode(entry.into()).expect_err("group 9");
        assert_eq!(error, EntryError::Unknown { what: "group", got: 9 });
    }

    fn write() -> impl Strategy<Value = Write> {
        let bytes = |max| proptest::option::of(proptest::collection::vec(any::<u8>(), 1..max));
        (bytes(139), bytes(300)).prop_map(|(key, payload)| Write {
            key: key.map(Bytes::from),
            payload: payload.map(Bytes::from),
        })
    }

    proptest! {
        #[test]
        fn batch_round_trips(writes in proptest::collection::vec(write(), 1..20), at: i64) {
            let batch = Batch { writes, ..sample() };
            let entry = Entry { proposed_at: Micros(at), batch: batch.encode() };
            let read = Entry::decode(entry.encode()).expect("an entry");
            prop_assert_eq!(read.proposed_at, entry.proposed_at);
            let header = BatchHeader::read(&read.batch).expect("a batch");
            prop_assert_eq!((header.sequence, header.count), (batch.sequence, batch.writes.len()));
            prop_assert_eq!(Batch::decode(read.batch).expect("a batch"), batch);
        }

        #[test]
        fn cut_or_foreign_batch_is_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..60)
        {
            prop_assert_eq!(BatchHeader::read(&bytes).is_ok(), Batch::decode(bytes.into()).is_ok());
            let whole = sample().encode();
            let cut = cut.min(whole.len() - 1);
            prop_assert!(Batch::decode(whole.slice(..cut)).is_err());
        }
    }
}
