//! An NDJSON export file as a source: one link with its payload a line, ascending, from any link on.
//!
//! It is read in one direction, in pieces of bounded size; reading from the middle scans from the
//! start. A file says nothing about where the chain stands now, only what it was when exported.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pghc_api::verify::{Violation, ViolationKind};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::record::{RECORD_BYTES_MAX, Record, Splitter};
use super::source::{ReadError, Sink, Standing};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// An export file that was opened once and found to hold at least one link.
#[derive(Debug)]
pub(crate) struct Export {
    path: PathBuf,
    /// Largest id in it.
    end: i64,
}

impl Export {
    /// Scans the file for its first and its largest id.
    ///
    /// # Errors
    /// If it cannot be read, or a record of it is no link.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Standing), ReadError> {
        let mut export = Self { path: path.to_owned(), end: 0 };
        let (mut first, mut end) = (None, 0);
        export
            .scan(&mut |link| {
                first = first.or(Some(link.id));
                end = link.id.max(end);
                ControlFlow::Continue(())
            })
            .await?;
        export.end = end;
        let number = |id: i64| u64::try_from(id).unwrap_or(0);
        let first = number(first.unwrap_or(1)).max(1);
        let standing = Standing { cluster: None, zone: None, first, end: number(end), head: None };
        Ok((export, standing))
    }

    /// Feeds the records from the first with id `from` on to the one with id `to`; when that is the
    /// last of the chain in the file, to the end of the file. What stands between them is fed
    /// whatever its id, so that a row out of its place is seen.
    pub(crate) async fn read(&self, from: u64, to: u64, sink: Sink<'_>) -> Result<(), ReadError> {
        let (from, to) = (i64::try_from(from), i64::try_from(to));
        let (from, to) = (from.unwrap_or(i64::MAX), to.unwrap_or(i64::MAX));
        let (mut begun, mut last) = (from <= 1, 0);
        self.scan(&mut |link| {
            begun = begun || link.id >= from;
            if !begun {
                return ControlFlow::Continue(());
            }
            if last == to && to < self.end {
                return ControlFlow::Break(());
            }
            last = link.id;
            sink(link)
        })
        .await
    }

    async fn scan(&self, sink: Sink<'_>) -> Result<(), ReadError> {
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => ReadError::Unreadable("there is no such file".to_owned()),
            _ => ReadError::Unreadable(format!("the file cannot be read: {error}")),
        };
        let mut file = File::open(&self.path).await.map_err(failed)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut splitter = Splitter::default();
        let mut last = 0;
        loop {
            let length = file.read(&mut chunk).await.map_err(failed)?;
            if length == 0 {
                break;
            }
            let mut rest = &chunk[..length];
            while !rest.is_empty() {
                let (taken, complete) = splitter.take(rest);
                rest = &rest[taken..];
                if complete {
                    if feed(splitter.record(), &mut last, sink)?.is_break() {
                        return Ok(());
                    }
                    splitter.clear();
                }
            }
        }
        if splitter.record().is_empty() {
            return Ok(());
        }
        feed(splitter.record(), &mut last, sink).map(drop)
    }
}

fn feed(record: &[u8], last: &mut i64, sink: Sink<'_>) -> Result<ControlFlow<()>, ReadError> {
    match serde_json::from_slice::<Record<'_>>(record) {
        Ok(link) => {
            let link = link.raw();
            *last = link.id;
            Ok(sink(&link))
        }
        Err(error) => {
            let expected = format!("a link as JSON of at most {RECORD_BYTES_MAX} bytes ({error})");
            let found = String::from_utf8_lossy(record);
            let id = last.saturating_add(1);
            Err(Violation::new(id, ViolationKind::NotALink, expected, found).into())
        }
    }
}
