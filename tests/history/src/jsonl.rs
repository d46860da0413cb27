//! The file form of a run: JSON lines, appended as things happen.
//!
//! The first line of a file is its header: `{"pghc_history":1,"cluster":"<uuid>"}`. Every other line
//! is one record, an object with one key that says what it is:
//!
//! | key | value |
//! |---|---|
//! | `operation` | an [`Operation`]: one request with its answer |
//! | `snapshot` | a [`Snapshot`] of a zone's database |
//! | `reset` | a [`Reset`]: a zone's database was replaced |
//! | `fault` | a class of faults that really happened once, as text |
//! | `zone` | the number of a zone that was there at the end, even if its chain is empty |
//! | `link` | `{"zone": n, …}` with the fields of a [`Link`]: a row of that zone's final chain |
//!
//! Times are nanoseconds, hashes and digests lower-case hex, commit times RFC 3339. Records of one
//! session, and links of one zone, are in order. A run may be split over several files, each with
//! its header: [`Run::read`] adds to the existing record.

use std::io::{BufRead, Write};

use pghc_api::id::ClusterId;
use serde::{Deserialize, Serialize};

use crate::history::{Chain, History, Link, Operation, Reset, Snapshot};

/// The number of the format that this build writes and reads.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A request with its answer.
    Operation(Operation),
    /// Content of a database.
    Snapshot(Snapshot),
    /// A database was replaced.
    Reset(Reset),
    /// A fault of this class happened.
    Fault(String),
    /// A zone that was there at the end.
    Zone(u16),
    /// A row of a final chain.
    Link(ZoneLink),
}

/// A link and its zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneLink {
    /// The zone.
    pub zone: u16,
    /// The link.
    #[serde(flatten)]
    pub link: Link,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    pghc_history: u32,
    cluster: ClusterId,
}

/// Why a file cannot be read or written. A history that is not read as a whole proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself.
    #[error("the history cannot be read or written")]
    Io(#[from] std::io::Error),
    /// A line is no record. The last line of a recorder that was killed may be torn: cut it off.
    #[error("line {line} of the history is no record")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// Another format than [`FORMAT`].
    #[error("the history has format {got}; this build reads format {FORMAT}")]
    Format {
        /// The number found.
        got: u32,
    },
    /// Not the cluster of the files read before.
    #[error("the history is of cluster {got}, the one before of cluster {wanted}")]
    Cluster {
        /// Cluster of this file.
        got: ClusterId,
        /// Cluster of the files before.
        wanted: ClusterId,
    },
}

/// Writes records, one line each.
#[derive(Debug)]
pub struct Recorder<W: Write>(W);

impl<W: Write> Recorder<W> {
    /// Starts a file with its header. Give a buffered writer; nothing is flushed here.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(writer: W, cluster: &ClusterId) -> Result<Self, Error> {
        let mut recorder = Self(writer);
        recorder.line(&Header { pghc_history: FORMAT, cluster: cluster.clone() })?;
        Ok(recorder)
    }

    /// Appends one record.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.line(record)
    }

    /// The writer, to flush or to sync it.
    pub fn writer(&mut self) -> &mut W {
        &mut self.0
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer(&mut self.0, value).map_err(std::io::Error::from)?;
        Ok(self.0.write_all(b"\n")?)
    }
}

/// A run as read from its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// The cluster; `None` before the first file.
    pub cluster: Option<ClusterId>,
    /// The history read until now.
    pub history: History,
    /// Final chains, in the order in which the zones first appeared.
    pub zones: Vec<Chain>,
}

impl Run {
    /// Adds a file.
    ///
    /// # Errors
    /// See [`Error`]. Lines before the bad line have been added then.
    pub fn read(&mut self, reader: impl BufRead) -> Result<(), Error> {
        let mut seen_header = false;
        for (text, line) in reader.lines().zip(1..) {
            let text = text?;
            let wrong = |source| Error::Line { line, source };
            if seen_header {
                self.add(serde_json::from_str(&text).map_err(wrong)?);
            } else {
                self.header(serde_json::from_str(&text).map_err(wrong)?)?;
                seen_header = true;
            }
        }
        Ok(())
    }

    fn header(&mut self, header: Header) -> Result<(), Error> {
        if header.pghc_history != FORMAT {
            return Err(Error::Format { got: header.pghc_history });
        }
        let wanted = self.cluster.get_or_insert_with(|| header.cluster.clone());
        if *wanted != header.cluster {
            return Err(Error::Cluster { got: header.cluster, wanted: wanted.clone() });
        }
        Ok(())
    }

    /// Adds one record.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Operation(operation) => self.history.operations.push(operation),
            Record::Snapshot(snapshot) => self.history.snapshots.push(snapshot),
            Record::Reset(reset) => self.history.resets.push(reset),
            Record::Fault(class) => *self.history.faults.entry(class).or_insert(0) += 1,
            Record::Zone(zone) => drop(self.zone(zone)),
            Record::Link(ZoneLink { zone, link }) => self.zone(zone).links.push(link),
        }
    }

    fn zone(&mut self, zone: u16) -> &mut Chain {
        let at = self.zones.iter().position(|chain| chain.zone == zone).unwrap_or_else(|| {
            self.zones.push(Chain { zone, links: Vec::new() });
            self.zones.len() - 1
        });
        &mut self.zones[at]
    }

    /// Writes the whole run into one file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, writer: impl Write, cluster: &ClusterId) -> Result<(), Error> {
        let mut out = Recorder::new(writer, cluster)?;
        for operation in &self.history.operations {
            out.record(&Record::Operation(operation.clone()))?;
        }
        for snapshot in &self.history.snapshots {
            out.record(&Record::Snapshot(snapshot.clone()))?;
        }
        for reset in &self.history.resets {
            out.record(&Record::Reset(reset.clone()))?;
        }
        for (class, times) in &self.history.faults {
            for _ in 0..*times {
                out.record(&Record::Fault(class.clone()))?;
            }
        }
        for chain in &self.zones {
            out.record(&Record::Zone(chain.zone))?;
            for link in &chain.links {
                out.record(&Record::Link(ZoneLink { zone: chain.zone, link: link.clone() }))?;
            }
        }
        Ok(out.writer().flush()?)
    }
}
