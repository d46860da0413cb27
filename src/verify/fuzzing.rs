//! Seam of `tests/fuzz`: an export file, however it is read in pieces. In no release.

use pghc_api::id::{ClusterId, WriteId};
use pghc_api::verify::Verifier;

use super::foreign;
use super::header::Header;
use super::record::{RECORD_BYTES_MAX, Record, Splitter};

fn split(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::default();
    let mut records = Vec::new();
    for mut chunk in bytes.chunks(piece) {
        while !chunk.is_empty() {
            let (taken, complete) = splitter.take(chunk);
            assert!(taken > 0 || complete, "it goes on");
            chunk = &chunk[taken..];
            if complete {
                records.push(splitter.record().to_vec());
                splitter.clear();
            }
        }
    }
    if !splitter.record().is_empty() {
        records.push(splitter.record().to_vec());
    }
    records
}

/// Splits a file into records, reads them and verifies them; its first byte says how it is cut.
///
/// # Panics
/// If the records depend on how the file is cut, or bytes of it are lost.
pub fn export(input: &[u8]) {
    let Some((&piece, file)) = input.split_first() else { return };
    if let Some((header, length)) = Header::read(file) {
        assert_eq!(header.to_string().as_bytes(), &file[..length], "a header has one form");
    }
    assert!(!foreign::name(file).is_empty(), "whatever it is has a name");
    let whole = split(file, file.len().max(1));
    let cut = split(file, usize::from(piece) + 1);
    let is_blank = |record: &[u8]| record.iter().all(u8::is_ascii_whitespace);
    let kept = |records: &[Vec<u8>]| -> Vec<Vec<u8>> {
        records.iter().filter(|record| !is_blank(record)).cloned().collect()
    };
    assert_eq!(kept(&whole), kept(&cut), "records do not depend on the pieces");
    let solid = |bytes: &[u8]| bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
    let in_records: usize = whole.iter().map(|record| solid(record)).sum();
    assert_eq!(solid(file), in_records, "nothing is lost");
    let cluster: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("a UUID");
    let mut verifier = Verifier::new(cluster, WriteId::FIRST);
    for record in &whole {
        assert!(record.len() <= RECORD_BYTES_MAX + 1);
        let Ok(record) = serde_json::from_slice::<Record<'_>>(record) else { continue };
        if verifier.check(&record.raw()).is_err() {
            break;
        }
    }
}
