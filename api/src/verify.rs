//! The verifier: given raw links one after another, finds the first that breaks the chain.
//!
//! Invariant: a link that [`Verifier::check`] accepts follows from the link before it by both
//! formulae, under the next id, with every column well-formed. The verifier reads *raw* links, as a
//! database or a file holds them, because a tampered row need not be a valid
//! [`Link`](crate::chain::Link). It does no I/O and holds one link at a time, so a chain of any
//! length is checked in constant memory.

mod known;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chain::{Digest, Head, LinkHash, payload_digest};
use crate::id::{ClusterId, NodeName, WriteId};
use crate::time::Micros;
use crate::token::Token;

pub use known::Known;
use known::Step;

/// Longest piece of a bad value that is quoted, in characters.
const QUOTE_CHARS_MAX: usize = 100;

/// Node names remembered between links, so that each is parsed once and not once a link.
const NAMES_MAX: usize = 16;

/// A link as found, unchecked.
#[derive(Debug, Clone, Copy)]
pub struct RawLink<'a> {
    /// The id column.
    pub id: i64,
    /// The node column.
    pub node: Option<&'a str>,
    /// The hash column.
    pub hash: Option<&'a str>,
    /// The digest column.
    pub digest: Option<RawDigest<'a>>,
    /// The commit time.
    pub written_at: Option<RawTime<'a>>,
    /// The payload's bytes.
    pub payload: Option<&'a [u8]>,
    /// The token, where the source carries one (an export or an API answer).
    pub token: Option<&'a str>,
}

/// A digest as a database (bytes) or as JSON (hex) holds it.
#[derive(Debug, Clone, Copy)]
pub enum RawDigest<'a> {
    /// Bytes; 32 of them if it is a digest.
    Bytes(&'a [u8]),
    /// Text; 64 lower-case hex digits if it is a digest.
    Hex(&'a str),
}

/// A time as a database (microseconds) or as JSON (RFC 3339) holds it.
#[derive(Debug, Clone, Copy)]
pub enum RawTime<'a> {
    /// Microseconds since the Unix epoch.
    Micros(i64),
    /// RFC 3339.
    Text(&'a str),
}

/// Kind of a violation. The text form is stable: scripts may branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationKind {
    /// An id below 1, or none.
    BadId,
    /// The id that comes next is not there, and a later one is.
    Gap,
    /// The same id twice.
    Duplicate,
    /// An id below the one before it.
    OutOfOrder,
    /// A column is missing or not of its form.
    Malformed,
    /// The MD5 hash does not follow from the link before.
    WrongHash,
    /// The SHA-256 digest does not follow: cluster, id, node, time, payload or previous digest differ.
    WrongDigest,
    /// The commit time is before the one of the link before.
    TimeWentBack,
    /// The token is not the one of this link.
    WrongToken,
    /// The rows end before the place where the source itself says they end.
    RowsMissing,
    /// There are rows above the place where the source itself says they end.
    RowsAboveFrontier,
    /// The frontier row names another hash or digest than the link it points to.
    WrongFrontier,
    /// A table of the chain is not as it was made: readers may be shown other rows than were checked.
    AlteredTable,
    /// A record of the source is no link at all.
    NotALink,
    /// Sources hold different links under the same id.
    Fork,
}

/// The first thing found wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Violation {
    /// First bad id. For a gap, the id that is not there.
    pub id: i64,
    /// Kind of the violation.
    pub kind: ViolationKind,
    /// The value that a sound chain has there.
    pub expected: String,
    /// The value that was found; long values are shortened.
    pub found: String,
}

impl Violation {
    /// A violation; `found` is shortened to a quotable length.
    #[must_use]
    pub fn new(
        id: i64,
        kind: ViolationKind,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self { id, kind, expected: expected.to_string(), found: quoted(&found.to_string()) }
    }

    fn sentence(&self) -> String {
        let Self { id, expected, found, .. } = self;
        match self.kind {
            ViolationKind::AlteredTable => {
                return format!(
                    "the chain's tables were altered: expected {expected}, found {found}"
                );
            }
            ViolationKind::WrongFrontier if *id < 1 => {
                return format!("the frontier is none: expected {expected}, found {found}");
            }
            _ => {}
        }
        let what = match self.kind {
            ViolationKind::BadId => "has an id that no link can have",
            ViolationKind::Gap | ViolationKind::RowsMissing => "is missing",
            ViolationKind::Duplicate => "is there twice",
            ViolationKind::OutOfOrder => "is out of order",
            ViolationKind::Malformed => "has a malformed column",
            ViolationKind::WrongHash => "has a hash that does not follow from the link before it",
            ViolationKind::WrongDigest => "has a digest that its content does not have",
            ViolationKind::TimeWentBack => "was written before the link before it",
            ViolationKind::WrongToken => "has a token that is not its own",
            ViolationKind::RowsAboveFrontier => "lies above the frontier",
            ViolationKind::WrongFrontier => "is not the one the frontier row names",
            ViolationKind::AlteredTable => "lies in a table that was altered",
            ViolationKind::NotALink => "is not readable as a link",
            ViolationKind::Fork => "is not the same everywhere",
        };
        format!("link {id} {what}: expected {expected}, found {found}")
    }
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        None => text.to_owned(),
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], text.len()),
    }
}

/// Checks links in ascending order, from any place of the chain on.
///
/// From link 1 no anchor is needed. From a later link, the link before it must be fed first: it is
/// the anchor, accepted unchecked, from which the first checked link must follow.
#[derive(Debug, Clone)]
pub struct Verifier {
    cluster: ClusterId,
    /// Id of the next link to be fed.
    next: u64,
    /// Whether the next link is accepted unchecked, as the anchor.
    anchoring: bool,
    head: Option<Head>,
    names: Vec<NodeName>,
    known: Option<Arc<Known>>,
}

impl Verifier {
    /// A verifier of the links from `from` on. Above 1, feed link `from - 1` first.
    #[must_use]
    pub fn new(cluster: ClusterId, from: WriteId) -> Self {
        let anchoring = from > WriteId::FIRST;
        let next = if anchoring { from.get() - 1 } else { from.get() };
        Self { cluster, next, anchoring, head: None, names: Vec::new(), known: None }
    }

    /// As [`Verifier::new`], for one of several copies of a chain that are checked at the same
    /// time: results for one copy are reused for another with the same bytes.
    #[must_use]
    pub fn sharing(known: Arc<Known>, from: WriteId) -> Self {
        Self { known: Some(Arc::clone(&known)), ..Self::new(known.cluster().clone(), from) }
    }

    /// The newest link that was fed and is sound, or the anchor.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The id that must be fed next.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Checks the next link and answers its chain values.
    ///
    /// # Errors
    /// The violation. Feeding on after one is of no use: the chain behind it proves nothing.
    pub fn check(&mut self, link: &RawLink<'_>) -> Result<Head, Violation> {
        let id = self.check_id(link.id)?;
        let stored = self.parse(id, link)?;
        if !self.anchoring {
            self.check_values(link, &stored)?;
        }
        self.anchoring = false;
        self.next += 1;
        self.head = Some(stored.head);
        Ok(stored.head)
    }

    /// Checks that the links reach `end`, the frontier of their source.
    ///
    /// # Errors
    /// [`ViolationKind::RowsMissing`] with the first id that is not there.
    pub fn finish(&self, end: u64) -> Result<(), Violation> {
        if self.next > end {
            return Ok(());
        }
        let expected = format!("links up to {end}, where the source says it stands");
        let found = format!("none from {} on", self.next);
        Err(Violation::new(signed(self.next), ViolationKind::RowsMissing, expected, found))
    }

    fn check_id(&self, found: i64) -> Result<WriteId, Violation> {
        let next = signed(self.next);
        let wrong =
            |id, kind| Violation::new(id, kind, format!("id {next}"), format!("id {found}"));
        let Some(id) = u64::try_from(found).ok().and_then(|id| WriteId::try_from(id).ok()) else {
            return Err(wrong(found, ViolationKind::BadId));
        };
        match found.cmp(&next) {
            std::cmp::Ordering::Equal => Ok(id),
            std::cmp::Ordering::Greater => Err(wrong(next, ViolationKind::Gap)),
            std::cmp::Ordering::Less if found == next - 1 => {
                Err(wrong(found, ViolationKind::Duplicate))
            }
            std::cmp::Ordering::Less => Err(wrong(found, ViolationKind::OutOfOrder)),
        }
    }

    fn parse(&mut self, id: WriteId, link: &RawLink<'_>) -> Result<Stored, Violation> {
        let bad = |expected: &str, found: Option<&dyn fmt::Display>| {
            let found = found.map_or("null".to_owned(), |found| format!("{found:.2000}"));
            Violation::new(id.as_i64(), ViolationKind::Malformed, expected, found)
        };
        let node = match link.node.map(|text| self.name(text)) {
            Some(Ok(node)) => node,
            Some(Err(error)) => return Err(bad("a node name", Some(&error))),
            None => return Err(bad("a node name", None)),
        };
        let hash = match link.hash.map(str::parse::<LinkHash>) {
            Some(Ok(hash)) => hash,
            Some(Err(error)) => return Err(bad("a hash", Some(&error))),
            None => return Err(bad("a hash", None)),
        };
        let digest = match link.digest {
            Some(RawDigest::Bytes(bytes)) => match bytes.try_into() {
                Ok(bytes) => Digest(bytes),
                Err(_) => {
                    let found = format!("{} bytes", bytes.len());
                    return Err(bad("a digest of 32 bytes", Some(&found)));
                }
            },
            Some(RawDigest::Hex(text)) => match text.parse() {
                Ok(digest) => digest,
                Err(error) => return Err(bad("a digest", Some(&error))),
            },
            None => return Err(bad("a digest of 32 bytes", None)),
        };
        let written_at = match link.written_at {
            Some(RawTime::Micros(micros)) => Micros(micros),
            Some(RawTime::Text(text)) => match text.parse() {
                Ok(time) => time,
                Err(error) => return Err(bad("a commit time", Some(&error))),
            },
            None => return Err(bad("a commit time", None)),
        };
        Ok(Stored { node, head: Head { id, hash, digest, written_at } })
    }

    fn check_values(&self, link: &RawLink<'_>, stored: &Stored) -> Result<(), Violation> {
        let Stored { node, head: found } = stored;
        let (before, node) = (self.head.as_ref(), &self.names[*node]);
        let id = found.id.as_i64();
        let step = Step { before, node, payload: link.payload, found };
        if !self.known.as_ref().is_some_and(|known| known.holds(&step)) {
            let payload = link.payload.map(payload_digest);
            let right = Head::extend(before, &self.cluster, node, found.written_at, payload);
            if right.hash != found.hash {
                return Err(Violation::new(id, ViolationKind::WrongHash, right.hash, found.hash));
            }
            if right.digest != found.digest {
                let kind = ViolationKind::WrongDigest;
                return Err(Violation::new(id, kind, right.digest, found.digest));
            }
            if let Some(known) = &self.known {
                known.keep(&step);
            }
        }
        if let Some(before) = self.head.filter(|before| found.written_at < before.written_at) {
            let expected = format!("{} or later", before.written_at);
            let kind = ViolationKind::TimeWentBack;
            return Err(Violation::new(id, kind, expected, found.written_at));
        }
        if let Some(token) = link.token {
            let right = Token::of(&self.cluster, found);
            if token.parse().ok().as_ref() != Some(&right) {
                return Err(Violation::new(id, ViolationKind::WrongToken, right, token));
            }
        }
        Ok(())
    }

    /// Position of this name in `names`.
    fn name(&mut self, text: &str) -> Result<usize, crate::id::BadId> {
        if let Some(known) = self.names.iter().position(|name| name.as_str() == text) {
            return Ok(known);
        }
        let name: NodeName = text.parse()?;
        if self.names.len() == NAMES_MAX {
            self.names.clear();
        }
        self.names.push(name);
        Ok(self.names.len() - 1)
    }
}

/// A link whose columns are well-formed.
struct Stored {
    /// Position of the node's name among the remembered names.
    node: usize,
    head: Head,
}

/// Ids are at most 2^63-1; one past that is only ever printed.
fn signed(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}
