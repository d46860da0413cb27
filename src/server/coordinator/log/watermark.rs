//! Second record of the log's durable end: a small file beside the segments.
//!
//! Frames alone cannot distinguish a crash's newest flush from one that rotted or was cut
//! afterwards. After each sync, and before any callback, the durable end is written here,
//! alternating between two slots. The file is not synced, which would double the cost of a flush:
//! the end of a process leaves it exact, and a power cut leaves an older, still true one.
//! Invariant: it is never ahead of the durable end. A log that ends before it has lost bytes.
//!
//! | slot | bytes |
//! |---|---|
//! | CRC-32 of the rest | 4 |
//! | zero | 4 |
//! | count | 8 |
//! | segment | 8 |
//! | offset | 8 |

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::frame::At;

/// Name of the file.
pub(super) const NAME: &str = "end";
/// Distance of the two slots: one page each, so that a torn write spares the other.
const SLOT_BYTES: u64 = 4 << 10;
const BYTES: usize = 32;

/// Open watermark file.
pub(super) struct Watermark {
    file: Arc<dyn DiskFile>,
    count: u64,
}

/// Returns the furthest end noted on `disk`; `None` without a readable slot.
///
/// # Errors
/// Those of the disk.
pub(super) fn read(disk: &dyn Disk) -> io::Result<Option<At>> {
    match disk.open(NAME) {
        Ok(file) => Ok(slots(file.as_ref())?.map(|(_, end)| end)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn slots(file: &dyn DiskFile) -> io::Result<Option<(u64, At)>> {
    let mut newest = None;
    for slot in 0..2 {
        let mut bytes = [0; BYTES];
        match file.read_at(&mut bytes, slot * SLOT_BYTES) {
            Ok(()) => newest = newest.max(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(newest)
}

fn decode(bytes: &[u8; BYTES]) -> Option<(u64, At)> {
    let number = |at: usize| bytes[at..].first_chunk().map(|it| u64::from_le_bytes(*it));
    let sum = u32::from_le_bytes(*bytes.first_chunk()?);
    let end = At { segment: number(16)?, offset: number(24)? };
    let count = number(8)?;
    (sum == crc32fast::hash(&bytes[4..])).then_some((count, end))
}

fn encode(count: u64, end: At) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[8..16].copy_from_slice(&count.to_le_bytes());
    bytes[16..24].copy_from_slice(&end.segment.to_le_bytes());
    bytes[24..].copy_from_slice(&end.offset.to_le_bytes());
    let sum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

impl Watermark {
    /// Opens or creates the file and notes `end` durably.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn start(disk: &dyn Disk, end: At) -> io::Result<Self> {
        let file = match disk.open(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(NAME)?,
            opened => opened?,
        };
        let count = slots(file.as_ref())?.map_or(0, |(count, _)| count);
        let mut watermark = Self { file, count };
        watermark.note(end)?;
        watermark.sync()?;
        disk.sync_dir()?;
        Ok(watermark)
    }

    /// Notes that everything before `end` is durable.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn note(&mut self, end: At) -> io::Result<()> {
        self.count += 1;
        self.file.write_at(&encode(self.count, end), self.count % 2 * SLOT_BYTES)
    }

    /// Makes the note durable.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::{At, BYTES, decode, encode};

    #[test]
    fn flipped_bit_of_a_note_is_found() {
        let at = At { segment: 7, offset: 4096 };
        let bytes = encode(3, at);
        assert_eq!(decode(&bytes), Some((3, at)));
        for bit in 0..BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(decode(&[0; BYTES]), None, "blank space is no note");
    }
}
