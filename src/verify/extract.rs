//! Writes an export: the links of one source, each checked, behind a header.
//!
//! Invariant: a link is written only if it follows from the link before it, and its payload with
//! the bytes that the source holds. An interrupted export is continued after its last complete
//! link.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use pghc_api::chain::{Digest, Head};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::token::Token;
use pghc_api::verify::{RawLink, Verifier, Violation, ViolationKind};
use pghc_runtime::task::Tasks;

use super::export::Export;
use super::header::Header;
use super::reading::ReadError;
use super::source::{Place, Source};

/// Request for an export.
#[derive(Debug, Clone)]
pub struct Extract {
    /// A zone's database or one of its API nodes.
    pub place: Place,
    /// First id.
    pub from: WriteId,
    /// Last id; default: the zone's frontier.
    pub to: Option<WriteId>,
}

/// How far an export that was begun before has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Bytes of the file up to the end of its last whole link, or of its header.
    pub bytes: u64,
    /// Whether it holds all that its header says.
    pub is_whole: bool,
    header: Header,
    last: Option<(WriteId, Digest)>,
}

/// Summary of a finished export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Id of the exported cluster.
    pub cluster: ClusterId,
    /// First id of the export.
    pub from: WriteId,
    /// Last id of the export.
    pub to: WriteId,
}

/// Reason for which an export ended early. The part already written is kept.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The chain is bad: exit code 1.
    #[error("{0}; the links before it were written, no link from there on")]
    Violation(Violation),
    /// The source cannot be read, or lacks the requested links.
    #[error("{0}")]
    Unreadable(String),
    /// The output cannot be written.
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
}

impl From<ReadError> for ExtractError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Violation(violation) => Self::Violation(violation),
            ReadError::Unreadable(text) | ReadError::Halted(text) => Self::Unreadable(text),
            ReadError::NoExport(text) => Self::Unreadable(format!("the file {text}")),
        }
    }
}

/// Inspects an export that was begun before.
///
/// # Errors
/// If the file is no export, or a link of it is damaged.
pub async fn begun(path: &Path) -> Result<Begun, ExtractError> {
    let (header, progress) = Export::progress(path).await?;
    let last = match &progress.last {
        None => None,
        Some((id, digest)) => {
            let id = u64::try_from(*id).ok().and_then(|id| WriteId::try_from(id).ok());
            let digest = digest.parse().ok();
            Some(id.zip(digest).ok_or_else(|| {
                ExtractError::Unreadable("its last link is damaged: begin it anew".to_owned())
            })?)
        }
    };
    let is_whole = last.is_some_and(|(id, _)| id >= header.to);
    Ok(Begun { bytes: progress.bytes, is_whole, header, last })
}

/// Writes an export to `out`, or the rest of one that was begun.
///
/// # Errors
/// See [`ExtractError`].
pub async fn extract(
    request: &Extract,
    begun: Option<&Begun>,
    out: &mut (dyn Write + Send),
    tasks: &Tasks,
) -> Result<Extracted, ExtractError> {
    let (mut source, standing) = Source::open(&request.place, tasks).await?;
    let unreadable = |text: String| ExtractError::Unreadable(text);
    let Some(cluster) = standing.cluster else {
        return Err(unreadable("the source does not say whose chain it holds".to_owned()));
    };
    let header = match begun {
        Some(Begun { header, .. }) if header.cluster != cluster => {
            let was = &header.cluster;
            return Err(unreadable(format!("the file is of cluster {was}, the zone of {cluster}")));
        }
        Some(begun) => begun.header.clone(),
        None => {
            let stands = WriteId::try_from(standing.end).ok();
            let Some(to) = request.to.or(stands).filter(|to| *to >= request.from) else {
                let (from, end) = (request.from, standing.end);
                return Err(unreadable(format!(
                    "no link from {from} on: the zone stands at {end}"
                )));
            };
            Header { cluster, from: request.from, to }
        }
    };
    if header.to.get() > standing.end {
        let (to, end) = (header.to, standing.end);
        return Err(unreadable(format!("the zone stands at {end} and has not reached link {to}")));
    }
    let last = begun.and_then(|begun| begun.last);
    if begun.is_none() {
        out.write_all(header.to_string().as_bytes()).map_err(ExtractError::Output)?;
    } else if last.is_some() {
        out.write_all(b"\n").map_err(ExtractError::Output)?;
    }
    links(&mut source, &header, last, out).await?;
    out.flush().map_err(ExtractError::Output)?;
    let Header { cluster, from, to } = header;
    Ok(Extracted { cluster, from, to })
}

async fn links(
    source: &mut Source,
    header: &Header,
    last: Option<(WriteId, Digest)>,
    out: &mut (dyn Write + Send),
) -> Result<(), ExtractError> {
    let from = last.map_or(header.from, |(id, _)| id.next());
    let mut verifier = Verifier::new(header.cluster.clone(), from);
    let mut failed: Option<ExtractError> = None;
    let start = verifier.next_id();
    let mut line = Vec::new();
    let sink = &mut |link: &RawLink<'_>| {
        let step = match verifier.check(link) {
            Err(violation) => Err(ExtractError::Violation(violation)),
            Ok(head) if head.id < from => same(&head, last).map_err(ExtractError::Violation),
            Ok(head) => {
                write_line(&mut line, &header.cluster, &head, link);
                out.write_all(&line).map_err(ExtractError::Output)
            }
        };
        match step {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let read = source.read(start, header.to.get(), sink).await;
    match failed {
        Some(error) => Err(error),
        None => {
            read?;
            verifier.finish(header.to.get()).map_err(ExtractError::Violation)
        }
    }
}

/// Checks that the link before the first one to write is the last one of the continued file.
fn same(before: &Head, last: Option<(WriteId, Digest)>) -> Result<(), Violation> {
    match last {
        Some((id, digest)) if digest != before.digest => {
            let expected = format!("digest {digest}, as the file has it");
            let found = format!("digest {} in the source", before.digest);
            Err(Violation::new(id.as_i64(), ViolationKind::Fork, expected, found))
        }
        _ => Ok(()),
    }
}

fn write_line(line: &mut Vec<u8>, cluster: &ClusterId, head: &Head, link: &RawLink<'_>) {
    let Head { id, hash, digest, written_at } = head;
    let (node, token) = (link.node.unwrap_or_default(), Token::of(cluster, head));
    line.clear();
    let text = format!(
        r#"{{"id":{id},"node_id":"{node}","hash":"{hash}","digest":"{digest}","written_at":"{written_at}","token":"{token}","payload":"#
    );
    line.extend_from_slice(text.as_bytes());
    line.extend_from_slice(link.payload.unwrap_or(b"null"));
    line.extend_from_slice(b"}\n");
}
