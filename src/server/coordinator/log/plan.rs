//! Reads records in two halves: a plan under the lock, disk reads without it.
//!
//! A purge in between may remove the file, so an unreadable record is damaged only if it still
//! exists; the caller checks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::content::Place;
use super::disk::DiskFile;
use super::frame::{Kind, decode, frame_bytes};
use super::options::Record;

/// Largest gap between two records of one disk read.
const READ_GAP_BYTES_MAX: u64 = 4 << 10;

/// Data of a read, so that the lock is not held during disk reads.
#[derive(Default)]
pub(super) struct Plan {
    stored: Vec<Stretch>,
    /// They follow the stored ones: the cache holds the newest.
    pub(super) cached: Vec<Record>,
}

/// Records so close in one file that one disk read covers them.
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

    /// Plans the read of record `index` from its place. Indexes ascend.
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

    /// Executes the plan.
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

/// Extracts the body of record `index` from `bytes`, read from disk at `start` in its segment. The
/// body shares their memory.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if the record is missing or damaged.
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
