//! Reading records, in two halves: what must be read is settled under the lock, and the disk is
//! waited for without it. In between a purge may take the file away, so a record that is not found
//! whole is damaged only if it still exists; the caller looks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::content::Place;
use super::disk::DiskFile;
use super::frame::{Kind, decode, frame_bytes};
use super::options::Record;

/// Records further apart in a segment than this are not read in one go.
const READ_GAP_BYTES_MAX: u64 = 4 << 10;

/// What a read needs, so that the lock is not held while it waits for the disk.
#[derive(Default)]
pub(super) struct Plan {
    stored: Vec<Stretch>,
    /// They follow the stored ones: the cache holds the newest.
    pub(super) cached: Vec<Record>,
}

/// Records that stand so close in one file that they are read in one go.
struct Stretch {
    file: Arc<dyn DiskFile>,
    start: u64,
    end: u64,
    records: Vec<(u64, Place)>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_empty() && self.cached.is_empty()
    }

    /// Plans to read record `index` from where it stands. Indexes ascend.
    pub(super) fn add(
        &mut self,
        index: u64,
        place: Place,
        files: &BTreeMap<u64, Arc<dyn DiskFile>>,
    ) {
        let start = place.at().offset;
        let end = start + frame_bytes(place.body_bytes as usize) as u64;
        if let Some(stretch) = self.stored.last_mut()
            && stretch.records.last().is_some_and(|(_, last)| last.segment == place.segment)
            && start - stretch.end <= READ_GAP_BYTES_MAX
        {
            stretch.end = end;
            stretch.records.push((index, place));
            return;
        }
        let file = files.get(&place.segment).expect("a segment with records has a file");
        let records = vec![(index, place)];
        self.stored.push(Stretch { file: Arc::clone(file), start, end, records });
    }

    /// Reads what was planned.
    pub(super) fn read(self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for stretch in self.stored {
            let size = usize::try_from(stretch.end - stretch.start).map_err(io::Error::other)?;
            let mut bytes = vec![0; size];
            stretch.file.read_at(&mut bytes, stretch.start)?;
            let bytes = Bytes::from(bytes);
            for (index, place) in stretch.records {
                let body = body(&bytes, stretch.start, index, place)?;
                records.push(Record { index, body });
            }
        }
        records.extend(self.cached);
        Ok(records)
    }
}

/// Takes the body of record `index` out of `bytes`, which were read from the disk and start
/// at `start` in its segment. The body shares their memory.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it is not there undamaged.
fn body(bytes: &Bytes, start: u64, index: u64, place: Place) -> io::Result<Bytes> {
    let damaged = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "record {index} in segment {} at byte {} is damaged on the disk; it was whole \
                 when it was written: replace this coordinator from the others",
                place.segment, place.offset
            ),
        )
    };
    let offset = usize::try_from(place.at().offset - start).map_err(|_| damaged())?;
    let frame = bytes.get(offset..).and_then(|rest| decode(rest, place.at()));
    match frame {
        Some(frame) if frame.kind == Kind::Record && frame.number == index => {
            Ok(bytes.slice_ref(frame.body))
        }
        _ => Err(damaged()),
    }
}
