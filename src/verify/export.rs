//! An export as a source: a header, then one link with its payload a line, ascending.
//!
//! The file is read in one direction, in pieces of bounded size; reading from the middle scans from
//! the start. A file proves nothing about the chain after its export. A file in another format is
//! named as such ([`super::foreign`]) and never called a violation.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pghc_api::verify::{RawDigest, RawLink, Violation, ViolationKind};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::foreign;
use super::header::Header;
use super::reading::{ReadError, Sink, Standing};
use super::record::{RECORD_BYTES_MAX, Record, Splitter};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Beginning of a link on a line of its own.
const NEXT_LINK: &[u8] = b"\n{\"";

/// An export that was opened once.
#[derive(Debug)]
pub(crate) struct Export {
    path: PathBuf,
    header: Header,
    /// Bytes of the header.
    header_bytes: usize,
    /// Largest id up to the one that the header names as the last.
    end: u64,
}

/// How far a file goes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes up to the end of the last whole link, or of the header.
    pub(crate) bytes: u64,
    /// Id and digest of the last complete link, unchecked.
    pub(crate) last: Option<(i64, String)>,
}

impl Export {
    /// Reads the header and scans the file for its largest id.
    ///
    /// # Errors
    /// If it cannot be read, is no export, or a record of it is no link.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Standing), ReadError> {
        let (header, header_bytes) = header(path).await?;
        let mut export = Self { path: path.to_owned(), header, header_bytes, end: 0 };
        let mut end = 0;
        export
            .scan(&mut |link, _| {
                end = link.id.max(end);
                ControlFlow::Continue(())
            })
            .await?;
        let Header { cluster, from, to } = &export.header;
        export.end = u64::try_from(end).unwrap_or(0).min(to.get());
        let standing = Standing {
            cluster: Some(cluster.clone()),
            zone: None,
            first: from.get(),
            end: export.end,
            head: None,
        };
        Ok((export, standing))
    }

    /// The header of an export that may be cut off, and how far the file goes.
    ///
    /// # Errors
    /// As [`Export::open`].
    pub(crate) async fn progress(path: &Path) -> Result<(Header, Progress), ReadError> {
        let (header, header_bytes) = header(path).await?;
        let export = Self { path: path.to_owned(), header, header_bytes, end: 0 };
        let mut progress = Progress { bytes: header_bytes as u64, last: None };
        export
            .scan(&mut |link, bytes| {
                let digest = match link.digest {
                    Some(RawDigest::Hex(text)) => text.to_owned(),
                    _ => String::new(),
                };
                progress = Progress { bytes, last: Some((link.id, digest)) };
                ControlFlow::Continue(())
            })
            .await?;
        Ok((export.header, progress))
    }

    /// Whether the file holds all that its header says.
    ///
    /// # Errors
    /// [`ReadError::Unreadable`] if it was cut off.
    pub(crate) fn is_whole(&self) -> Result<(), ReadError> {
        let (end, to) = (self.end, self.header.to);
        if end >= to.get() {
            return Ok(());
        }
        Err(ReadError::Unreadable(format!(
            "the file holds links up to {end} of {to}: it was cut off; `pghc export --resume` goes \
             on with it"
        )))
    }

    /// Feeds the records from the first with id `from` to the one with id `to`, or to the end of
    /// the file if `to` is its last. Records between them are fed whatever their id, so a misplaced
    /// row is found.
    pub(crate) async fn read(&self, from: u64, to: u64, sink: Sink<'_>) -> Result<(), ReadError> {
        let signed = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
        let (mut begun, mut last) = (from <= self.header.from.get(), 0);
        self.scan(&mut |link, _| {
            begun = begun || link.id >= signed(from);
            if !begun {
                return ControlFlow::Continue(());
            }
            if last == signed(to) && to < self.end {
                return ControlFlow::Break(());
            }
            last = link.id;
            sink(link)
        })
        .await
    }

    /// Feeds every record behind the header, each with the number of bytes up to its end.
    async fn scan(&self, sink: Counted<'_>) -> Result<(), ReadError> {
        let mut file = File::open(&self.path).await.map_err(failed)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut splitter = Splitter::default();
        let mut last = self.header.from.as_i64() - 1;
        let (mut skip, mut bytes) = (self.header_bytes, self.header_bytes as u64);
        loop {
            let length = file.read(&mut chunk).await.map_err(failed)?;
            if length == 0 {
                break;
            }
            let mut rest = &chunk[skip.min(length)..length];
            skip -= skip.min(length);
            while !rest.is_empty() {
                let (taken, complete) = splitter.take(rest);
                rest = &rest[taken..];
                bytes += taken as u64;
                if complete {
                    if feed(splitter.record(), bytes, &mut last, sink)?.is_break() {
                        return Ok(());
                    }
                    splitter.clear();
                }
            }
        }
        let record = splitter.record();
        // The beginning of one link is where the file was cut off. Anything else is no link.
        let is_cut = record.first() == Some(&b'{')
            && !record.windows(NEXT_LINK.len()).any(|window| window == NEXT_LINK);
        if record.is_empty() || is_cut {
            return Ok(());
        }
        feed(record, bytes, &mut last, sink).map(drop)
    }
}

/// Takes links, each with the number of bytes of the file up to its end.
type Counted<'a> = &'a mut (dyn FnMut(&RawLink<'_>, u64) -> ControlFlow<()> + Send);

fn failed(error: std::io::Error) -> ReadError {
    match error.kind() {
        ErrorKind::NotFound => ReadError::Unreadable("there is no such file".to_owned()),
        _ => ReadError::Unreadable(format!("the file cannot be read: {error}")),
    }
}

/// The header of a file and its length.
async fn header(path: &Path) -> Result<(Header, usize), ReadError> {
    let file = File::open(path).await.map_err(failed)?;
    if !file.metadata().await.map_err(failed)?.is_file() {
        let what =
            "is no regular file, and an export is read more than once: write it to one first";
        return Err(ReadError::NoExport(what.to_owned()));
    }
    let mut beginning = Vec::new();
    let mut file = file.take(foreign::LOOKED_AT_BYTES as u64);
    file.read_to_end(&mut beginning).await.map_err(failed)?;
    Header::read(&beginning).ok_or_else(|| ReadError::NoExport(foreign::name(&beginning)))
}

fn feed(
    record: &[u8],
    bytes: u64,
    last: &mut i64,
    sink: Counted<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    match serde_json::from_slice::<Record<'_>>(record) {
        Ok(link) => {
            let link = link.raw();
            *last = link.id;
            Ok(sink(&link, bytes))
        }
        Err(error) => {
            let expected = format!("a link as JSON of at most {RECORD_BYTES_MAX} bytes ({error})");
            let found = String::from_utf8_lossy(record);
            let id = last.saturating_add(1);
            Err(Violation::new(id, ViolationKind::NotALink, expected, found).into())
        }
    }
}
